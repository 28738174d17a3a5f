"""Controls of equal quality: the unconstrained model, made as bad as a constrained one.

Constrained models predict worse, and a worse model is harder to hurt. Each control
has the clean loss of a constrained arm without its constraint: what robustness it
shows is not the constraint's doing.

Shape suffixes: B = sequences, T = positions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from scipy import optimize
from torch import Tensor

from isotone.data.batch import UNSCORED, Batch
from isotone.errors import ConfigurationError
from isotone.models import family_of, head_of, hidden_states
from isotone.models.parts import scale_gain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KINDS = ["tempered", "noised", "early"]
ROWS = 8  # sequences per forward pass
SHARPEST, FLATTEST = 1.0, 64.0  # temperatures that are tried
NOISE = 8.0  # largest noise that is tried, in standard deviations of each weight


@dataclass(frozen=True)
class Control:
    """A control and how well it met its target.

    Attributes:
        model: the control, or the untouched reference where no control exists.
        found: false for "not applicable" and "not available"; then ``reason`` says why.
        setting: what was solved for (temperature or noise scale).
        target_nll, reached_nll, baseline_nll: nats per token of the texts that losses are matched on.
    """

    model: PreTrainedModel
    kind: str
    found: bool
    reason: str
    setting: float | str | None
    target_nll: float
    reached_nll: float
    baseline_nll: float

    def report(self) -> dict[str, Any]:
        """Everything but the model, as plain data."""
        return {
            "kind": self.kind,
            "found": self.found,
            "reason": self.reason,
            "setting": self.setting,
            "target_nats_per_token": self.target_nll,
            "reached_nats_per_token": self.reached_nll,
            "baseline_nats_per_token": self.baseline_nll,
            "difference": self.reached_nll - self.target_nll,
        }


@torch.no_grad()
def hidden_batches(model: PreTrainedModel, inputs_BT: Tensor | Batch) -> list[Tensor]:
    """Hidden states in front of the vocabulary projection, a few sequences at a time, one row per token."""
    device = head_of(model).weight_VD.device
    return [hidden_states(model, inputs.to(device)).flatten(0, 1) for inputs in inputs_BT.split(ROWS)]


@torch.no_grad()
def mean_nll(
    model: PreTrainedModel,
    inputs_BT: Tensor | Batch,
    targets_BT: Tensor,
    *,
    temperature: float = 1.0,
    hidden: Sequence[Tensor] | None = None,
    by_text: bool = False,
) -> float:
    """Nats per scored token (targets of -100 are not scored), summed in fp64.

    Args:
        temperature: divides the logits.
        hidden: what `hidden_batches` gives for ``inputs_BT``, where it is known already.
        by_text: the mean over rows of each row's mean, as attacks report clean loss; else over all tokens.
    """
    from isotone.models.loss import token_nll

    head = head_of(model).tempered(temperature)
    means: list[float] = []
    total, count = 0.0, 0
    batches = hidden_batches(model, inputs_BT) if hidden is None else hidden
    for hidden_ND, targets in zip(batches, targets_BT.split(ROWS), strict=True):
        flat = targets.to(head.weight_VD.device).flatten()
        nll_N = token_nll(hidden_ND, head, flat).double()
        scored_BT = (flat != UNSCORED).view_as(targets)
        means += (nll_N.view_as(targets).sum(1) / scored_BT.sum(1)).tolist()
        total += float(nll_N.sum())
        count += int(scored_BT.sum())
    return sum(means) / len(means) if by_text else total / count


def solve(function: Callable[[float], float], low: float, high: float, tolerance: float) -> float | None:
    """A root of an increasing function on [low, high] to ``tolerance`` in its value; None if there is none."""

    def flat(value: float) -> float:
        """The function with all that is near enough to zero called zero, where Brent's method ends."""
        found = function(value)
        return 0.0 if abs(found) <= tolerance else found

    at_low = flat(low)
    if at_low == 0:
        return low
    if at_low > 0 or flat(high) < 0:
        return None
    return float(optimize.brentq(flat, low, high, xtol=1e-12))


@torch.no_grad()
def scale_logits(model: PreTrainedModel, factor: float) -> None:
    """Multiply all logits by ``factor``, in place: through the final norm's gain and bias, which plain
    transformers loads again.

    Where the norm has no gain (Olmo) the vocabulary projection itself is scaled, if it is not tied.

    Raises:
        ConfigurationError: if neither can take the factor.
    """
    head, family = head_of(model), family_of(model)
    norm = family.final_norm(model)
    if getattr(norm, "weight", None) is not None:
        scale_gain(norm, family.gain_offset, factor)
        if getattr(norm, "bias", None) is not None:
            norm.get_parameter("bias").mul_(factor)
    elif not model.config.tie_word_embeddings:
        head.weight_VD.mul_(factor)
    else:
        raise ConfigurationError(
            f"This {family.name} model's final norm has no gain and its vocabulary projection is tied to the "
            "embedding, so no temperature can be exported. Take controls.kinds without tempered."
        )
    if head.bias_V is not None:
        head.bias_V.mul_(factor)
    if head.cap:  # cap x tanh(logits / cap) scales with its cap
        setattr(model.config, family.logits.cap, head.cap * factor)


def _tempered(
    reference: PreTrainedModel, gap: Callable[..., float], inputs_BT: Tensor | Batch, tolerance: float
) -> tuple[PreTrainedModel, float] | None:
    hidden = hidden_batches(reference, inputs_BT)  # a temperature does not change them
    temperature = solve(lambda value: gap(reference, temperature=value, hidden=hidden), SHARPEST, FLATTEST, tolerance)
    if temperature is None:
        return None
    model = copy.deepcopy(reference)
    scale_logits(model, 1 / temperature)
    return model, temperature


class Noise:
    """Gaussian noise on every matrix of a model's blocks, at any scale, without copying the model.

    A matrix becomes W + scale * spread(W) * noise. The noise depends on the seed and the matrix's place alone, and
    is drawn on the CPU, so that two scales share one direction and every device has the same.
    """

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, seed: int) -> None:
        self.matrices: list[tuple[Tensor, Tensor, Tensor]] = []  # parameter, its weights, one unit of noise
        parameters = (value for block in family_of(model).layers(model) for value in block.parameters())
        for place, parameter in enumerate(value for value in parameters if value.dim() >= 2):
            generator = torch.Generator().manual_seed((seed << 20) + place)
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            unit = float(parameter.cpu().std()) * drawn
            self.matrices.append((parameter, parameter.clone(), unit.to(parameter)))

    @torch.no_grad()
    def apply(self, scale: float) -> None:
        """Set the model to this much noise; 0 gives its own weights back."""
        for parameter, weights, unit in self.matrices:
            parameter.copy_(weights + scale * unit)


def add_noise(model: PreTrainedModel, scale: float, seed: int) -> None:
    """Add noise of one scale, in place; see `Noise`."""
    Noise(model, seed).apply(scale)


def _noised(
    baseline: PreTrainedModel, gap: Callable[..., float], tolerance: float, seed: int
) -> tuple[PreTrainedModel, float] | None:
    model = copy.deepcopy(baseline)
    noise = Noise(model, seed)

    def loss_at(scale: float) -> float:
        noise.apply(scale)
        return gap(model)

    scale = solve(loss_at, 0.0, NOISE, tolerance)
    if scale is None:
        return None
    noise.apply(scale)
    return model, scale


def make_control(
    kind: str,
    reference: PreTrainedModel,
    target_nll: float,
    inputs_BT: Tensor | Batch,
    targets_BT: Tensor,
    *,
    tolerance: float,
    seed: int = 0,
    by_text: bool = False,
) -> Control:
    """A control with the clean loss ``target_nll`` on the given texts.

    Args:
        kind: ``tempered`` (logits divided by T > 1), ``noised`` (seeded Gaussian on weights) or ``early`` (a
            checkpoint as it is: a point of the control curve, which matches no target).
        tolerance: nats per token.
        by_text: what `mean_nll` averages over.

    Returns:
        The control; where none exists (the reference is no better than the target) the reference itself
        with ``found`` false and the reason.
    """

    def gap(model: PreTrainedModel, **options: Any) -> float:
        return mean_nll(model, inputs_BT, targets_BT, by_text=by_text, **options) - target_nll

    baseline_nll = target_nll + gap(reference)
    made: tuple[PreTrainedModel, float | str] | None
    if kind == "tempered":
        made, missing = (
            _tempered(reference, gap, inputs_BT, tolerance),
            "not applicable: no temperature above 1 gives this loss",
        )
    elif kind == "noised":
        made, missing = _noised(reference, gap, tolerance, seed), "not applicable: no noise gives this loss"
    elif kind == "early":
        made, missing = (reference, "as it is"), ""
    else:
        raise ConfigurationError(f'controls.kinds has "{kind}". Choose from {", ".join(KINDS)}.')
    if made is None:
        return Control(reference, kind, False, missing, None, target_nll, baseline_nll, baseline_nll)
    model, value = made
    reached = target_nll + gap(model)
    return Control(model, kind, True, "", value, target_nll, reached, baseline_nll)
