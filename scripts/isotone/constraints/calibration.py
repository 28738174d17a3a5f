"""Starts that look at activations: fit each constrained matrix to what the signed one computed.

Layer by layer, in the model's order: inputs come from the model as constrained so far,
targets from the unconstrained teacher, so that each layer mends what earlier ones broke.

Shape suffixes: B = sequences, T = positions, N = tokens, D = width, F = hidden units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isotone.config.constraint import Constraint
from isotone.constraints.capture import Seen, capture
from isotone.constraints.coordinates import coordinates_of, into_centred
from isotone.constraints.maps import weight_maps
from isotone.constraints.nnls import problem, solve
from isotone.constraints.scopes import constrained
from isotone.data.batch import Batch
from isotone.errors import ConfigurationError
from isotone.models.families import FAMILIES, family_of
from isotone.models.parts import Projection, Sublayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH = 512  # tokens per step of block reconstruction


def add_biases(model: PreTrainedModel) -> None:
    """Give every feed-forward projection a bias of zeros, where the family's format can hold one.

    Raises:
        ConfigurationError: if plain transformers could not load such a model.
    """
    family = family_of(model)
    projections = [p for sublayer in family.sublayers(model) for p in (*sublayer.entrances, sublayer.exit)]
    without = [projection for projection in projections if projection.bias is None]
    if not without:
        return
    if not family.bias_key:
        raise ConfigurationError(
            f"constraint.add_bias is true, but a {family.name} model has no feed-forward biases that plain transformers "
            f"could load. Set it to false (families that can: {', '.join(name for name, row in FAMILIES.items() if row.bias_key)})."
        )
    for projection in without:
        weight = projection.parameter
        projection.module.register_parameter("bias", nn.Parameter(weight.new_zeros(weight.shape[0])))
    setattr(model.config, family.bias_key, True)


def _fit(student: Projection, x_NI: Tensor, y_NO: Tensor, settings: Constraint) -> None:
    coordinates = coordinates_of(student, settings.cone)
    targets_NO = y_NO
    if coordinates.side == "inputs":
        x_NI = into_centred(x_NI)
    elif coordinates.side == "outputs":
        y_NO = into_centred(y_NO)
    start = coordinates.read(student.stored)
    turned = student.transposed and not coordinates.side  # centred coordinates are [out, in] in every family
    start_OI = start.T if turned else start
    task = problem(x_NI, y_NO, ridge=settings.calibration.ridge, free_bias=student.bias is not None)
    found_OI = solve(task, start_OI, settings.calibration.iterations).to(start)
    weight = coordinates.write((found_OI.T if turned else found_OI).contiguous())
    student.stored.copy_(weight)
    if student.bias is not None:
        if coordinates.side == "outputs":  # the bias alone may leave the centred space
            student.bias.copy_(targets_NO.double().mean(0) - student.weight_OI.double() @ x_NI.double().mean(0))
        else:
            student.bias.copy_(task.bias(found_OI))


def _stages(sublayer: Sublayer, inside: set[str]) -> list[list[Projection]]:
    """The constrained projections of a block in the order in which they run; each stage reads one input."""
    groups = [[projection] for projection in sublayer.attention_out]
    groups += [list(sublayer.entrances), [sublayer.exit]]
    chosen = [[projection for projection in group if projection.name in inside] for group in groups]
    return [group for group in chosen if group]


def reconstruct(
    student: PreTrainedModel, sublayer: Sublayer, seen: Seen, targets_ND: Tensor, settings: Constraint
) -> None:
    """Fit a whole feed-forward net to the teacher's with Adam; constrained weights stay in their cone.

    Args:
        seen: what the net reads in the student (inputs [N, D]).
        targets_ND: what the teacher's net writes.
    """
    maps = weight_maps(student, settings)
    net = _Net(student, sublayer)
    parameters = {name: value.detach().clone() for name, value in net.parameters().items()}
    for value in parameters.values():
        value.requires_grad_()
    optimizer = torch.optim.Adam(parameters.values(), lr=settings.block_reconstruction.learning_rate, betas=(0.9, 0.99))
    steps = settings.block_reconstruction.steps
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.05, 1 - step / max(1, steps)))
    generator = torch.Generator().manual_seed(sublayer.layer)
    scale = targets_ND.var().clamp_min(1e-12)
    for _ in range(steps):
        rows = torch.randint(0, len(targets_ND), (min(BATCH, len(targets_ND)),), generator=generator)
        with torch.enable_grad():
            loss = (net(seen.inputs_NI[rows], parameters) - targets_ND[rows]).square().mean() / scale
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        decay.step()
        for name, value in parameters.items():
            if name in maps:
                value.data.copy_(maps[name].inside_cone(value.data))
    whole_before = (net(seen.inputs_NI, net.parameters()) - targets_ND).square().mean()
    if (net(seen.inputs_NI, parameters) - targets_ND).square().mean() < whole_before:
        for name, value in parameters.items():
            student.get_parameter(name).copy_(value.detach())


class _Net:
    """A feed-forward net as a function of its parameters."""

    def __init__(self, model: nn.Module, sublayer: Sublayer) -> None:
        self.model, self.sublayer = model, sublayer
        self.activation = model.get_submodule(sublayer.activation_name)

    def parameters(self) -> dict[str, Tensor]:
        """Weights and biases by their names in the model."""
        found: dict[str, Tensor] = {}
        for projection in (*self.sublayer.entrances, self.sublayer.exit):
            found[projection.weight_name] = projection.parameter
            if projection.bias is not None:
                found[f"{projection.name}.bias"] = projection.module.get_parameter("bias")
        return found

    def _apply(self, projection: Projection, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        weight_OI = projection.oriented(projection.part(parameters[projection.weight_name]))
        bias = parameters.get(f"{projection.name}.bias")
        return nn.functional.linear(x, weight_OI, None if bias is None else projection.output(bias))

    def __call__(self, x_ND: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        branches = [self._apply(entrance, x_ND, parameters) for entrance in self.sublayer.entrances]
        hidden = self.activation(branches[0])
        hidden = hidden * branches[1] if len(branches) == 2 else hidden
        return self._apply(self.sublayer.exit, hidden, parameters)


@torch.no_grad()
def calibrate(
    student: PreTrainedModel, teacher: PreTrainedModel, settings: Constraint, ids_BT: Tensor | Batch
) -> PreTrainedModel:
    """``nnls`` and ``nnls_block``: fit the constrained weights of ``student``, in place, to ``teacher``.

    Biases that exist are fitted too; ``add_bias`` makes them where there are none.

    Args:
        ids_BT: calibration text; 4096 tokens are enough for small models.
    """
    if settings.add_bias:
        add_biases(student)
    inside = {projection.name for projection in constrained(student, settings)}
    theirs: dict[int, Any] = {sublayer.layer: sublayer for sublayer in family_of(teacher).sublayers(teacher)}
    for sublayer in family_of(student).sublayers(student):
        stages = _stages(sublayer, inside)
        for stage in stages:
            names = list(dict.fromkeys(projection.name for projection in stage))
            ours, wanted = capture(student, ids_BT, names), capture(teacher, ids_BT, names)
            for projection in stage:
                target_NO = projection.output(wanted[projection.name].outputs_NO)
                _fit(projection, ours[projection.name].inputs_NI, target_NO, settings)
        if stages and settings.init == "nnls_block":
            entrance, exit_name = sublayer.entrances[0].name, sublayer.exit.name
            seen = capture(student, ids_BT, [entrance], outputs=False)[entrance]
            targets_ND = capture(teacher, ids_BT, [theirs[sublayer.layer].exit.name])[exit_name].outputs_NO
            reconstruct(student, sublayer, seen, targets_ND, settings)
    return student
