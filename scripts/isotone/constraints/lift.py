"""The gauge lift: non-negative weights that compute exactly what the signed ones did.

A norm that centres removes multiples of the all-ones vector. Adding a constant to a
row of a matrix that reads its output, or to a column of a matrix that writes into a
residual stream which only such norms read, changes nothing.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isotone.constraints.capture import capture
from isotone.data.batch import Batch
from isotone.errors import ConfigurationError
from isotone.models.families import family_of
from isotone.models.parts import Projection, Sublayer

FLOOR = 1e-4  # lifted weights are at least this: softplus has no inverse at zero


@torch.no_grad()
def fold_gain(sublayer: Sublayer) -> None:
    """Move the gain and bias of the norm in front into what reads it: ``W diag(g)``, ``b + W beta``.

    The function stays. Attention beside the net reads the same norm in some families and takes its part. The norm
    is left with gain 1, and with bias 0 where every reader has a bias of its own; else with bias ``beta / g``.

    Raises:
        ConfigurationError: if a bias has to stay and a gain of zero leaves it no place.
    """
    norm, gain, shift = sublayer.norm, sublayer.gain, sublayer.shift
    if norm is None:
        return
    readers: list[tuple[Tensor, Tensor | None]] = [(entry.weight_OI, entry.bias) for entry in sublayer.entrances]
    readers += [(reader.get_parameter("weight").detach(), getattr(reader, "bias", None)) for reader in sublayer.beside]
    if shift is not None and bool(shift.any()):
        if all(bias is not None for _, bias in readers):
            for weight_OI, bias in readers:
                torch.as_tensor(bias).add_(weight_OI @ shift)
            shift.zero_()
        elif gain is not None:
            if bool((gain == 0).any()):
                raise ConfigurationError(
                    f"{sublayer.norm_name} has gains of zero, and not all that reads it has a bias, so its bias can neither "
                    "move nor stay. Choose constraint.init nnls or abs for this model."
                )
            shift.div_(gain)
    if gain is not None:
        for weight_OI, _ in readers:
            weight_OI.mul_(gain)
        norm.get_parameter("weight").fill_(1.0 - sublayer.gain_offset)


def require_centring(model: nn.Module, what: str) -> None:
    """Raise ConfigurationError unless every reader of the residual stream centres it first."""
    family = family_of(model)
    if not family.centring(model):
        raise ConfigurationError(
            f"{what} needs norms that centre their output and stand in front of every sublayer; this {family.name} "
            "model has none. Llama, Mistral and Qwen2 models get them from constraint.norm rotate_center; else choose "
            "constraint.init nnls or nnls_block and the elementwise cone."
        )


@torch.no_grad()
def lift_rows(projection: Projection, total: float = 0.0) -> None:
    """Add ``c_i = max(0, floor - min_j W_ij)`` to row i; invisible where inputs sum to a constant.

    Args:
        total: that constant, what the norm's bias sums to; the projection's bias then loses ``c_i total``.

    Raises:
        ConfigurationError: if it is not zero and the projection has no bias.
    """
    weight_OI = projection.weight_OI
    constant_O = (FLOOR - weight_OI.amin(1)).clamp_min(0)
    if total:
        if projection.bias is None:
            raise ConfigurationError(
                f"{projection.name} has no bias, and the norm in front of it has one that can move nowhere else. "
                "Choose constraint.init nnls or abs for this model."
            )
        projection.bias.sub_(constant_O * total)
    weight_OI += constant_O[:, None]


@torch.no_grad()
def lift_columns(projection: Projection, mean_input_I: Tensor | None = None) -> None:
    """Add ``d_k = max(0, floor - min_i W_ik)`` to column k; invisible where readers centre.

    Args:
        mean_input_I: mean input; the bias then loses ``d . mean``, which keeps the residual stream's mean small.
    """
    weight_OI = projection.weight_OI
    constant_I = (FLOOR - weight_OI.amin(0)).clamp_min(0)
    weight_OI += constant_I
    if mean_input_I is not None and projection.bias is not None:
        projection.bias.sub_(constant_I @ mean_input_I.to(constant_I))


def _in_parts(weight_OI: Tensor, x: Tensor, *, reads: bool) -> Tensor:
    """``W x`` as ``(W - mean) x`` in autocast's type plus what the mean does, in fp32.

    Args:
        reads: the mean is that of each row (of a matrix behind a norm, whose inputs sum to almost nothing);
            else that of each column (readers of the output centre it, so its rounding is invisible).
    """
    mean = weight_OI.float().mean(1 if reads else 0, keepdim=True)
    product = nn.functional.linear(x, weight_OI - mean)  # autocast casts both
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        constant = x.sum(-1, keepdim=True) * mean.T if reads else x @ mean.T
        return (product + constant).to(product.dtype) if reads else product + constant


def _forward(module: Any, x: Tensor, *, reads: bool, transposed: bool) -> Tensor:
    if not torch.is_autocast_enabled(x.device.type):
        whole: Any = type(module).forward
        return whole(module, x)  # type: ignore[no-any-return]
    made = _in_parts(module.weight.T if transposed else module.weight, x, reads=reads)
    return made if module.bias is None else made + module.bias.to(made.dtype)


def split_in_autocast(projections: Sequence[Projection]) -> None:
    """Let these projections take the constants of a lift out of the product that autocast rounds.

    Call it on lifted ones before training in bf16. A lifted row is the signed row plus a constant, which vanishes
    only because inputs sum to zero; rounded to bf16 together it left an error of 0.57 in the logits of a small
    model. Apart from each other both are as exact as any product in bf16. Outside autocast nothing changes.
    """
    for projection in projections:
        reads = projection.role in ("ffn_in", "ffn_gate", "ffn_up")
        forward = functools.partial(_forward, reads=reads, transposed=projection.transposed)
        projection.module.forward = types.MethodType(forward, projection.module)


@torch.no_grad()
def lift(model: nn.Module, projections: Sequence[Projection], ids_BT: Tensor | Batch | None) -> None:
    """Lift projections whose norms' gains are folded already; ``ids_BT`` gives mean inputs."""
    require_centring(model, "constraint.init lift")
    writers = [projection for projection in projections if projection.role in ("ffn_out", "attention_out")]
    means: dict[str, Tensor] = {}
    if ids_BT is not None and writers:
        seen = capture(model, ids_BT, [writer.name for writer in writers])
        means = {name: rows.inputs_NI.double().mean(0) for name, rows in seen.items()}
    shifts = {sublayer.layer: sublayer.shift for sublayer in family_of(model).sublayers(model)}
    for projection in projections:
        if projection in writers:
            lift_columns(projection, means.get(projection.name))
        else:
            shift = shifts[projection.layer]
            lift_rows(projection, 0.0 if shift is None else float(shift.detach().double().sum()))
