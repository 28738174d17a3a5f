"""Non-decreasing versions of common activations, as modules that transformers can build.

GELU, SiLU and their kin fall on part of the negative axis, so that a net of
non-negative weights around them is not monotone. ``s(max(x, c))`` is monotone
whenever s does not fall above c. The floor c is a buffer and travels with the
weights; the configuration names the module as ``isotone_<activation>``. Plain
transformers does not know that name and says so; after ``import isotone.models.activations`` it does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

PREFIX = "isotone_"


@dataclass(frozen=True)
class Shape:
    """Where an activation stops falling (``turn``) and its least slope (``steepest``, at ``at``)."""

    turn: float
    steepest: float
    at: float


_GELU = Shape(-0.7517915246935644, -0.1289041451851548, -1.4142135623730951)
_TANH_GELU = Shape(-0.7524614220710163, -0.1289930686587718, -1.4185040087908283)
_SILU = Shape(-1.278464542761074, -0.0998393201288669, -2.3993572805154675)
SHAPES: dict[str, Shape] = {
    "gelu": _GELU,
    "gelu_python": _GELU,
    "gelu_new": _TANH_GELU,
    "gelu_fast": _TANH_GELU,
    "gelu_accurate": _TANH_GELU,
    "gelu_pytorch_tanh": _TANH_GELU,
    "quick_gelu": Shape(-0.7511542554412891, -0.0998393201288669, -1.4097281319127297),
    "silu": _SILU,
    "swish": _SILU,
}
NON_DECREASING = {"relu", "relu2", "relu6", "leaky_relu", "linear", "sigmoid", "tanh"}


class MonotoneActivation(nn.Module):
    """``s(max(x, floor))`` for a known activation s; non-decreasing for floor >= the turn of s."""

    floor: Tensor

    def __init__(self, base: str, floor: float | None = None) -> None:
        """``floor`` defaults to the turn of ``base``, an activation's name in transformers."""
        super().__init__()
        self.base = ACT2FN[base]
        start = SHAPES[base].turn if floor is None else floor
        self.register_buffer("floor", torch.tensor(start, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """The activation, elementwise, any shape."""
        return self.base(torch.maximum(x, self.floor.to(x.dtype)))


def register() -> None:
    """Teach transformers the names ``isotone_<activation>``; again is harmless."""
    for name in SHAPES:
        ACT2FN[PREFIX + name] = (MonotoneActivation, {"base": name})


def base_name(name: str) -> str:
    """The activation behind an ``isotone_`` name, or the name itself."""
    return name.removeprefix(PREFIX)


register()
