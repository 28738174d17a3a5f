"""Give a model a non-decreasing activation, fitted per layer where the setting says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from isotone.config.constraint import Constraint
from isotone.constraints.capture import capture
from isotone.constraints.scopes import require_one_net, selected_sublayers
from isotone.data.batch import Batch
from isotone.errors import ConfigurationError
from isotone.models.activations import NON_DECREASING, PREFIX, SHAPES, MonotoneActivation, base_name, register
from isotone.models.families import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MARGIN = 1e-6  # above the turn, so that rounding in fp32 leaves no falling stretch


def isotonic_floor(name: str, z: Tensor) -> float:
    """The c at which ``s(max(z, c))`` has the mean that s had below c: ``s(c) = E[s(z) | z < c]``.

    Among floors this is the least-squares choice (pooling the part that falls, as isotonic regression does).
    Where no value lies below the turn it is the turn.

    Args:
        z: pre-activations, any shape.
    """
    from transformers.activations import ACT2FN

    function, turn = ACT2FN[name], SHAPES[name].turn
    low, high = turn + MARGIN, 0.0
    below = z.flatten()[z.flatten() < high].double().sort().values
    if not len(below) or float(below[0]) >= low:
        return low
    means = function(below).cumsum(0) / torch.arange(1, len(below) + 1, dtype=torch.float64, device=below.device)

    def excess(c: float) -> float:
        count = int(torch.searchsorted(below, torch.tensor(c, dtype=torch.float64, device=below.device)))
        return float(function(torch.tensor(c, dtype=torch.float64)) - means[count - 1])

    if excess(low) >= 0:
        return low
    for _ in range(60):  # s(c) rises above the turn and reaches 0, which is no less than the mean, at c = 0
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return high


def replace_activations(model: PreTrainedModel, settings: Constraint, ids_BT: Tensor | Batch | None) -> None:
    """Replace the activation in place, as ``settings.activation`` says; the configuration names the new one.

    ``relu`` loads in plain transformers. ``clamp`` and ``isotonic`` are ``isotone_<name>``: they load after
    ``import isotone.models.activations``. Layers that ``settings.layers`` leaves out keep their function (a floor of -inf).

    Raises:
        ConfigurationError: if the activation has no known turn, or ``relu`` is asked for some layers only.
    """
    family = family_of(model)
    name = base_name(family.activation_of(model.config))
    if name in NON_DECREASING and settings.activation != "relu":
        return
    sublayers = selected_sublayers(model, settings)
    everything = family.sublayers(model)
    if settings.activation == "relu":
        if len(sublayers) < len(everything):
            raise ConfigurationError(
                "constraint.activation is relu and constraint.layers selects some layers, but one configuration names one "
                "activation for all. Choose clamp or isotonic, or all layers."
            )
        family.rename_activation(model.config, "relu")
        for sublayer in everything:
            model.set_submodule(sublayer.activation_name, nn.ReLU())
        return
    if name not in SHAPES:
        raise ConfigurationError(
            f'constraint.activation is {settings.activation}, but Isotone does not know where "{name}" falls. '
            f"It knows: {', '.join(SHAPES)}. Choose relu or keep."
        )
    family.rename_activation(model.config, PREFIX + name)
    register()
    floors = {sublayer.layer: SHAPES[name].turn + MARGIN for sublayer in sublayers}
    if settings.activation == "isotonic" and ids_BT is not None:
        # the activation's argument is what its first branch wrote
        entrances = [sublayer.entrances[0] for sublayer in sublayers]
        require_one_net(model, "constraint.activation isotonic")
        seen = capture(model, ids_BT, [entrance.name for entrance in entrances])
        floors = {
            entrance.layer: isotonic_floor(name, entrance.output(seen[entrance.name].outputs_NO))
            for entrance in entrances
        }
    device = next(model.parameters()).device
    for sublayer in everything:
        floor = floors.get(sublayer.layer, float("-inf"))
        model.set_submodule(sublayer.activation_name, MonotoneActivation(name, floor).to(device))
