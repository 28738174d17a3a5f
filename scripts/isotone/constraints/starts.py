"""How constrained weights start from the pretrained ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from isotone.config.constraint import Constraint
from isotone.constraints.coordinates import coordinates_of
from isotone.constraints.lift import FLOOR, fold_gain, lift, require_centring, split_in_autocast
from isotone.constraints.maps import weight_maps
from isotone.constraints.scopes import constrained, require_one_net, selected_sublayers
from isotone.data.batch import Batch
from isotone.errors import ConfigurationError
from isotone.models.families import family_of
from isotone.models.parts import Projection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MULTIPLICATIVE = {"softplus", "exp", "square"}  # their slope vanishes with the weight: zero would never move


def floor_of(settings: Constraint) -> float:
    """The smallest weight that a start may leave under the settings' map."""
    return FLOOR if settings.map in MULTIPLICATIVE else 0.0


def _check(model: nn.Module, settings: Constraint, ids_BT: Tensor | Batch | None) -> None:
    if settings.cone == "strict":
        require_centring(model, "constraint.cone strict")
    needs = settings.init in ("nnls", "nnls_block") or settings.activation == "isotonic"
    if ids_BT is None and needs:
        raise ConfigurationError(
            f"constraint.init {settings.init} with activation {settings.activation} looks at activations and needs "
            "calibration text. Give token ids."
        )


@torch.no_grad()
def remove_feed_forward(model: nn.Module) -> None:
    """Set every feed-forward output to zero: the control that shows what deleting these nets costs."""
    for sublayer in family_of(model).sublayers(model):
        sublayer.exit.parameter.zero_()
        if sublayer.exit.bias is not None:
            sublayer.exit.bias.zero_()


@torch.no_grad()
def rectify(projections: Sequence[Projection], settings: Constraint) -> None:
    """``abs`` or ``relu`` in the coordinates of the cone, without looking at activations."""
    for projection in projections:
        coordinates = coordinates_of(projection, settings.cone)
        inside = coordinates.read(projection.stored)
        inside = inside.abs() if settings.init == "abs" else inside
        projection.stored.copy_(coordinates.write(inside.clamp_min(floor_of(settings))))


@torch.no_grad()
def settle(model: nn.Module, settings: Constraint) -> None:
    """Put every constrained weight where its map can reach it: the exported W is f(V) of the first V."""
    if settings.map == "free":
        return
    for name, mapping in weight_maps(model, settings).items():
        parameter = model.get_parameter(name)
        if settings.map in MULTIPLICATIVE:  # fitted starts hold exact zeros
            parameter.copy_(mapping.inside_cone(parameter, FLOOR))
        parameter.copy_(mapping.forward(mapping.inverse(parameter)))


def constrain(
    model: PreTrainedModel, settings: Constraint, calibration: Tensor | Batch | None = None
) -> PreTrainedModel:
    """Make the start of an arm from a pretrained model.

    Weights change in place; ``norm: rotate_center`` returns a model of another class.
    Deterministic: the same model, settings and text give the same weights.

    Args:
        calibration: token ids [B, T]; needed by starts and activations that look at data.

    Raises:
        ConfigurationError: if the settings do not fit the model.
    """
    if settings.norm == "rotate_center":
        from isotone.constraints.rotation import rotate_and_centre

        model = rotate_and_centre(model, calibration)
    projections = constrained(model, settings)
    _check(model, settings, calibration)
    teacher = None
    if settings.init in ("nnls", "nnls_block"):
        import copy

        require_one_net(model, f"constraint.init {settings.init}")
        teacher = copy.deepcopy(model)
    if settings.init == "lift" or settings.cone == "strict":
        for sublayer in selected_sublayers(model, settings):
            fold_gain(sublayer)
    if settings.activation != "keep":
        from isotone.constraints.activations import replace_activations

        replace_activations(model, settings, calibration)
    if settings.init == "no_ffn":
        remove_feed_forward(model)
    elif settings.init == "lift":
        lift(model, projections, calibration)
    elif settings.init in ("abs", "relu"):
        rectify(projections, settings)
    elif teacher is not None and calibration is not None:
        from isotone.constraints.calibration import calibrate

        model = calibrate(model, teacher, settings, calibration)
    settle(model, settings)
    return model


def guard_precision(model: nn.Module, settings: Constraint) -> None:
    """Before training in bf16: lifted projections keep their constants out of products in bf16."""
    if settings.init == "lift":
        split_in_autocast(constrained(model, settings))
