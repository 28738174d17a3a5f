"""The parts of a model that a constraint touches: projections, and feed-forward nets with what surrounds them.

Shape suffixes: O = outputs, I = inputs; a weight of stacked experts has one axis more in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Share:
    """One of several equal parts of a fused matrix, counted along its outputs."""

    index: int
    parts: int

    def of(self, whole: Tensor, axis: int = -2) -> Tensor:
        """A view of this part."""
        size = whole.shape[axis] // self.parts
        return whole.narrow(axis, self.index * size, size)


@dataclass(frozen=True)
class Projection:
    """One linear map of the model, or one for each expert: ``y = W x + b`` with W of shape [out, in].

    Attributes:
        role: what it does, see `isotone.models.families`.
        layer: index of its block, counted over all stacks.
        name: dotted name of the module that applies it.
        module: that module.
        tensor: name of the weight inside the module.
        transposed: true where the parameter is stored as [in, out] (GPT-2's Conv1D).
        share: the part of a fused matrix that has this role, or None for all of it.
    """

    role: str
    layer: int
    name: str
    module: nn.Module
    tensor: str = "weight"
    transposed: bool = False
    share: Share | None = None

    @property
    def weight_name(self) -> str:
        """Name of the weight in ``model.named_parameters()``."""
        return f"{self.name}.{self.tensor}"

    @property
    def parameter(self) -> nn.Parameter:
        """The weight as the module stores it, a fused one whole."""
        return self.module.get_parameter(self.tensor)

    @property
    def bias(self) -> Tensor | None:
        """The bias [out], or None; a view of the stored one."""
        bias = getattr(self.module, "bias", None) if self.tensor == "weight" else None
        return bias if bias is None or self.share is None else self.share.of(bias, -1)

    @property
    def stacked(self) -> bool:
        """Whether the weight holds one matrix per expert."""
        return self.parameter.dim() == 3

    def part(self, whole: Tensor) -> Tensor:
        """What belongs to this role, of a tensor shaped like the stored weight; a view."""
        return whole if self.share is None else self.share.of(whole)

    def output(self, y: Tensor) -> Tensor:
        """What belongs to this role, of what the module writes."""
        return y if self.share is None else self.share.of(y, -1)

    def oriented(self, stored: Tensor) -> Tensor:
        """A tensor of the stored shape, seen as [out, in]; its own inverse."""
        return stored.T if self.transposed else stored

    @property
    def stored(self) -> Tensor:
        """The weight of this role as the module stores it, without gradient; a view."""
        return self.part(self.parameter.detach())

    @property
    def weight_OI(self) -> Tensor:
        """The weight as [out, in] (stacked experts: [experts, out, in]), without gradient; a view."""
        return self.oriented(self.stored)


@dataclass(frozen=True)
class Sublayer:
    """A feed-forward net with what surrounds it.

    Attributes:
        layer: index of its block, counted over all stacks.
        name: dotted name of the block.
        projections: by role; ``attention_out`` may hold several (T5's decoder).
        norm, norm_name: the norm in front of the feed-forward net; None and "" where it reads the residual stream.
        gain_offset: what the norm adds to its stored gain (Gemma: 1).
        beside: other modules that read the same norm (attention in parallel blocks).
        norm_behind: whether a norm stands between the net's output and the residual stream.
        activation_name: dotted name of the activation module.
    """

    layer: int
    name: str
    projections: Mapping[str, Projection]
    attention_out: tuple[Projection, ...]
    norm: nn.Module | None
    norm_name: str
    gain_offset: float
    beside: tuple[nn.Module, ...]
    norm_behind: bool
    activation_name: str

    @property
    def entrances(self) -> tuple[Projection, ...]:
        """The projections that read the norm's output."""
        return tuple(self.projections[role] for role in ("ffn_in", "ffn_gate", "ffn_up") if role in self.projections)

    @property
    def exit(self) -> Projection:
        """The projection that writes towards the residual stream."""
        return self.projections["ffn_out"]

    @property
    def experts(self) -> int:
        """How many nets a router chooses from; 0 where there is one net and no router."""
        return len(self.exit.parameter) if self.exit.stacked else 0

    @property
    def gain(self) -> Tensor | None:
        """What the norm multiplies its features with, [D]; None where it multiplies with nothing."""
        return None if self.norm is None else gain_of(self.norm, self.gain_offset)

    @property
    def shift(self) -> Tensor | None:
        """What the norm adds to its features, [D]; the stored bias, or None."""
        return None if self.norm is None else getattr(self.norm, "bias", None)

    def of_role(self, role: str) -> tuple[Projection, ...]:
        """All projections of a role; empty if the family has none."""
        if role == "attention_out":
            return self.attention_out
        return (self.projections[role],) if role in self.projections else ()


def gain_of(norm: nn.Module, offset: float) -> Tensor | None:
    """The factor that a norm applies to each feature, without gradient: its weight plus the family's offset."""
    weight = getattr(norm, "weight", None)
    return None if weight is None else weight.detach() + offset if offset else weight.detach()


def scale_gain(norm: nn.Module, offset: float, factor: float) -> None:
    """Multiply what a norm multiplies its features with, in place."""
    norm.get_parameter("weight").data.add_(offset).mul_(factor).sub_(offset)
