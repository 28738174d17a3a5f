"""How far a net's output can move while its input stays in a box: interval bounds, and the radius that they certify.

Intervals go through the input projection, the activation, the gate and the output projection, one after the other.
For signed weights the result is an upper bound, often a loose one. Where all weights are non-negative and the
activation never falls, the ends are ``f(x - r)`` and ``f(x + r)`` themselves: the bound is exact and attained.

The box lies around what the norm writes before its gain, behind a centring norm in centred coordinates, so that arms of
one model are compared on the same boxes. Arms of the strict cone start with gains of 1 and promise order of what the norm
writes; there the box lies behind the gain.

Shape suffixes: N = samples, D = width (or centred coordinates, one less), F = hidden units.

Source: Gowal et al. 2018 (arXiv:1810.12715), section 3, for interval bound propagation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from isotone.constraints.coordinates import into_centred
from isotone.constraints.paths import Path, path_of
from isotone.models.activations import SHAPES, base_name
from isotone.models.parts import Sublayer

SAMPLES = 16
SHARE = 0.1  # of the spread of the net's outputs on text: how far an output may move inside the certified box
HALVINGS = 20
WIDEST = 2.0**10  # in units of the inputs' spread

Interval = tuple[Tensor, Tensor]


def _linear(weight: Tensor, bias: Tensor, box: Interval) -> Interval:
    middle, half = (box[0] + box[1]) / 2, (box[1] - box[0]) / 2
    centre, reach = middle @ weight.T + bias, half @ weight.abs().T
    return centre - reach, centre + reach


def _activated(path: Path, box: Interval) -> Interval:
    ends = path.activation(box[0]), path.activation(box[1])
    if path.non_decreasing:
        return ends
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    shape = SHAPES.get(base_name(path.activation_name))
    if shape is None:
        raise ValueError(f"no interval is known for the activation {path.activation_name}")
    turn = path.activation(torch.full_like(low, shape.turn))  # it falls up to the turn and rises behind it
    return torch.where((box[0] < shape.turn) & (box[1] > shape.turn), torch.minimum(low, turn), low), high


def _product(a: Interval, b: Interval) -> Interval:
    corners = torch.stack([x * y for x in a for y in b])
    return corners.amin(0), corners.amax(0)


@torch.no_grad()
def output_interval(path: Path, x_ND: Tensor, radius_N1: Tensor) -> Interval:
    """Least and largest value of each output over the boxes ``x - r <= x' <= x + r``: bounds, ``[N, D]`` each.

    Raises:
        ValueError: for an activation whose falling stretch is not known.
    """
    box = x_ND - radius_N1, x_ND + radius_N1
    branches = [_linear(weight, bias, box) for weight, bias in path.entrances]
    hidden = _activated(path, branches[0])
    hidden = _product(hidden, branches[1]) if path.gated else hidden
    return _linear(*path.exit, hidden)


def _seen_from(path: Path, sublayer: Sublayer, x_ND: Tensor, centred: bool, behind_gain: bool) -> tuple[Path, Tensor]:
    """The net as a function of what the norm writes, before its gain or behind it, and inputs there."""
    gain, shift = (None, None) if behind_gain else (sublayer.gain, sublayer.shift)
    entrances = path.entrances
    if shift is not None:
        entrances = tuple((weight, bias + weight @ shift.detach().double()) for weight, bias in entrances)
        x_ND = x_ND - shift.detach().double()
    if gain is not None:
        gain = gain.double()
        entrances = tuple((weight * gain, bias) for weight, bias in entrances)
        x_ND = torch.where(gain == 0, 0.0, x_ND / torch.where(gain == 0, 1.0, gain))
    if not centred:
        return replace(path, entrances=entrances), x_ND
    exit_weight, exit_bias = path.exit
    return replace(
        path,
        entrances=tuple((into_centred(weight), bias) for weight, bias in entrances),
        exit=(into_centred(exit_weight.T).T.contiguous(), into_centred(exit_bias)),
        centred=True,
    ), into_centred(x_ND)


@torch.no_grad()
def certified_radius(
    model: nn.Module,
    sublayer: Sublayer,
    activation_name: str,
    x_ND: Tensor,
    *,
    centred: bool,
    behind_gain: bool = False,
    expert: int = 0,
) -> dict[str, Any]:
    """The largest box around inputs on text inside which no output moves by more than a tenth of its spread.

    Args:
        x_ND: what the net reads on text, behind the norm's gain.
        centred: whether the norm centres.
        behind_gain: whether the box lies behind the norm's gain (strict cone).

    Returns:
        ``radius`` (median over samples, in units of the inputs' spread), ``least`` (the smallest), ``exact`` (whether
        the bound is attained), ``share`` and ``samples``; ``radius`` is None for an activation with no known interval.
    """
    path = path_of(model, sublayer, activation_name, "elementwise", expert)
    path, inputs_ND = _seen_from(path, sublayer, x_ND.double(), centred, behind_gain)
    rows = inputs_ND[torch.linspace(0, len(inputs_ND) - 1, min(SAMPLES, len(inputs_ND))).long()]
    slack = 1e-6 * float(path.exit[0].abs().max()) if centred else 0.0
    signed = any(bool((weight < -slack).any()) for weight in (path.exit[0], *(each[0] for each in path.entrances)))
    found = {
        "exact": path.non_decreasing and not path.gated and not signed,
        "share": SHARE,
        "samples": len(rows),
        "space": "centred coordinates" if centred else "features",
    }
    unit = float(inputs_ND.std())
    allowed = SHARE * float(path(inputs_ND).std(0).mean())
    if path(rows).isnan().any() or (not path.non_decreasing and base_name(path.activation_name) not in SHAPES):
        return {"radius": None, "least": None, **found}
    middle_ND = path(rows)

    def moved(radius_N1: Tensor) -> Tensor:
        low, high = output_interval(path, rows, radius_N1 * unit)
        return torch.maximum(high - middle_ND, middle_ND - low).amax(1, keepdim=True)

    low_N1, high_N1 = torch.zeros(len(rows), 1).to(rows), torch.full((len(rows), 1), WIDEST).to(rows)
    for step in range(HALVINGS + 10):
        half_N1 = high_N1 / 2 if step < 10 else (low_N1 + high_N1) / 2
        inside = moved(half_N1) <= allowed
        low_N1, high_N1 = torch.where(inside, half_N1, low_N1), torch.where(inside, high_N1, half_N1)
    low_N1 = low_N1.cpu()  # a GPU has no repeatable median
    return {"radius": float(low_N1.median()), "least": float(low_N1.min()), **found}
