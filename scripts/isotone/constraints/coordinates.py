"""The coordinates in which a weight is non-negative.

Element-wise cones use the weight itself. The strict cone uses an orthonormal basis
of the vectors that sum to zero, which is all that a centring norm lets through, so
that non-negativity there does restrict the function.

Shape suffixes: O = outputs, I = inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from isotone.models.parts import Projection


def householder(width: int, like: Tensor) -> Tensor:
    """Unit v [width] of the reflection ``H = 1 - 2 v v^T`` that takes the last axis to 1/sqrt(width)."""
    v = torch.full((width,), -1 / math.sqrt(width), dtype=torch.float64, device=like.device)
    v[-1] += 1
    return (v / v.norm()).to(like.dtype)


def into_centred(x: Tensor) -> Tensor:
    """``x U``: [..., d] to [..., d - 1], U = the first d - 1 columns of the reflection."""
    v = householder(x.shape[-1], x)
    return (x - 2 * (x @ v)[..., None] * v)[..., :-1]


def out_of_centred(a: Tensor) -> Tensor:
    """``a U^T``: [..., d - 1] to [..., d]; each result sums to zero."""
    padded = torch.nn.functional.pad(a, (0, 1))
    v = householder(padded.shape[-1], a)
    return padded - 2 * (padded @ v)[..., None] * v


@dataclass(frozen=True)
class Coordinates:
    """How a stored weight is seen: as itself, or in centred coordinates of its inputs or outputs.

    Attributes:
        side: ``""`` elementwise; ``"inputs"`` W = A U^T; ``"outputs"`` W = U B.
        transposed: whether the weight is stored as [in, out].
    """

    side: str = ""
    transposed: bool = False

    def read(self, stored: Tensor) -> Tensor:
        """Coordinates of a weight; the part outside the cone's space is dropped."""
        if not self.side:
            return stored
        weight_OI = stored.T if self.transposed else stored
        return into_centred(weight_OI) if self.side == "inputs" else into_centred(weight_OI.T).T.contiguous()

    def write(self, coordinates: Tensor) -> Tensor:
        """The stored weight that has these coordinates."""
        if not self.side:
            return coordinates
        inside = self.side == "inputs"
        weight_OI = out_of_centred(coordinates) if inside else out_of_centred(coordinates.T).T
        return (weight_OI.T if self.transposed else weight_OI).contiguous()


def coordinates_of(projection: Projection, cone: str) -> Coordinates:
    """The coordinates in which a projection is non-negative under a cone."""
    if cone == "elementwise":
        return Coordinates(transposed=projection.transposed)
    entrance = projection.role in ("ffn_in", "ffn_gate", "ffn_up")
    return Coordinates("inputs" if entrance else "outputs", projection.transposed)
