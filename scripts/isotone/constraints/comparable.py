"""Whether a net has inputs that can be compared at all: without them a promise of order is true and empty.

Shape suffix: D = width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isotone.models.parts import Sublayer


def vacuous(sublayer: Sublayer, centring: bool) -> bool:
    """Whether no two inputs of the net are comparable, and W >= 0 restricts no function that it can compute.

    A centring norm writes ``x = g * u + b`` with u summing to zero. If all gains g are above zero, ``x <= x'`` makes
    ``u' - u`` non-negative with sum zero: ``x = x'``; and rows of W are free up to a constant that nothing reads. The
    same holds if all are below zero. Gains of both signs, or one of zero, leave pairs that differ (`comparable_pair`).
    """
    gain = sublayer.gain
    if not centring or gain is None:
        return centring
    return bool((gain > 0).all()) or bool((gain < 0).all()) or not bool(gain.any())


def comparable_pair(sublayer: Sublayer, centring: bool) -> tuple[Tensor, Tensor] | None:
    """Two points of the residual stream that the norm takes to different inputs ``x <= x'`` of the net.

    Both lie where the norm changes no length: ``u`` and ``u + d`` with ``|u| = |u + d| = sqrt(D)`` and ``g * d >= 0``;
    behind a centring norm u and d sum to zero. Without a norm in front any two ordered points serve.

    Returns:
        ``[D]`` each, fp64; None where no two different inputs are comparable (`vacuous`).
    """
    if vacuous(sublayer, centring):
        return None
    width = sublayer.entrances[0].weight_OI.shape[-1]
    gain = torch.ones(width) if sublayer.gain is None else sublayer.gain.cpu()
    up = int(gain.abs().argmax()) if not centring else int(gain.argmax())
    down = int(gain.argmin()) if centring else (up + 1) % width
    d = torch.zeros(width, dtype=torch.float64)
    d[up] = 1.0 if gain[up] >= 0 else -1.0
    if centring:
        d[up], d[down] = 1.0, -1.0
    rest = torch.ones(width, dtype=torch.float64)  # orthogonal to d, and of sum zero where it has to be
    rest[up] = rest[down] = 0.0
    if centring:
        others = rest.nonzero()[:, 0]
        rest[others[len(others) // 2 :]] = -1.0
        rest[others] -= rest[others].mean()
    length = (width - float(d @ d) / 4) ** 0.5
    u = -d / 2 + rest / rest.norm() * length
    return u, u + d
