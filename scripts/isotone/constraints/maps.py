"""W = f(V): how weights stay non-negative while an optimizer moves V freely.

The optimizer keeps V in fp32; the model holds W as an ordinary parameter. Once
per step: ``dV = pull_back(V, dW)``, a step on V, ``V = retract(V)``, ``W = forward(V)``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from isotone.config.constraint import Constraint
from isotone.constraints.coordinates import Coordinates, coordinates_of
from isotone.constraints.scopes import constrained
from isotone.errors import ConfigurationError
from isotone.models.families import family_of
from isotone.models.parts import Projection, Share

SMALLEST = 1e-12  # below it a weight counts as this: log and softplus have no inverse at zero
LARGEST_SCALE = 50.0


@dataclass(frozen=True)
class Element:
    """One scalar map; all functions are elementwise, of any shape."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    retract: Callable[[Tensor], Tensor] = staticmethod(lambda latent: latent)


def _softplus_inverse(weight: Tensor) -> Tensor:
    # log(exp(W) - 1) loses all digits of a small W in exp(W) - 1; this form loses none
    weight = weight.clamp_min(SMALLEST)
    return weight + torch.log(-torch.expm1(-weight))


def _softplus(latent: Tensor) -> Tensor:
    # logaddexp keeps relative accuracy on both sides; F.softplus switches to the identity at 20
    return torch.logaddexp(latent, latent.new_zeros(()))


ELEMENTS: dict[str, Element] = {
    "softplus": Element(_softplus, _softplus_inverse, torch.sigmoid),
    "exp": Element(torch.exp, lambda weight: weight.clamp_min(SMALLEST).log(), torch.exp),
    "square": Element(torch.square, lambda weight: weight.clamp_min(0).sqrt(), lambda latent: 2 * latent),
    "abs": Element(torch.abs, torch.abs, lambda latent: torch.where(latent < 0, -1.0, 1.0).to(latent)),
    "project": Element(
        lambda latent: latent.clamp_min(0),
        lambda weight: weight.clamp_min(0),
        torch.ones_like,
        lambda latent: latent.clamp_min(0),
    ),
    "free": Element(lambda latent: latent.clone(), lambda weight: weight.clone(), torch.ones_like),
    "zero": Element(torch.zeros_like, torch.zeros_like, torch.zeros_like, torch.zeros_like),
}
ELEMENTS["sign_frozen"] = ELEMENTS["softplus"]


@dataclass(frozen=True)
class WeightMap:
    """The map of one parameter between V (latent) and W (weight, as the module stores it).

    V has the shape of W except under the strict cone, where it has one row or column less.

    Attributes:
        name: the map's name in the settings.
        coordinates: where non-negativity holds.
        sign: signs that stay as they are (``sign_frozen``), else None.
        scale_learning_rate: whether `learning_rate_scale` is anything but 1.
    """

    name: str
    coordinates: Coordinates = field(default_factory=Coordinates)
    sign: Tensor | None = None
    scale_learning_rate: bool = False

    @property
    def element(self) -> Element:
        """The scalar map."""
        return ELEMENTS[self.name]

    def inverse(self, weight: Tensor) -> Tensor:
        """V of a weight that lies in the cone; what lies outside is moved onto its border."""
        coordinates = self.coordinates.read(weight)
        if self.sign is not None:
            coordinates = coordinates * self.sign.to(coordinates)
        return self.element.inverse(coordinates)

    def forward(self, latent: Tensor) -> Tensor:
        """W of V."""
        coordinates = self.element.forward(latent)
        if self.sign is not None:
            coordinates = coordinates * self.sign.to(coordinates)
        return self.coordinates.write(coordinates)

    def slope(self, latent: Tensor) -> Tensor:
        """d(coordinates of W)/dV, elementwise; under ``sign_frozen`` with the sign."""
        slope = self.element.slope(latent)
        return slope if self.sign is None else slope * self.sign.to(slope)

    def pull_back(self, latent: Tensor, grad_weight: Tensor) -> Tensor:
        """dL/dV from dL/dW, by the chain rule."""
        # the coordinates are orthonormal, so the adjoint of `write` is `read`
        grad = self.coordinates.read(grad_weight.to(latent.dtype)) * self.slope(latent)
        return grad.contiguous()  # a fused optimizer takes values in the order of memory, whatever the strides say

    def retract(self, latent: Tensor) -> Tensor:
        """V after a step, moved back to where it may be (``project``); else V itself."""
        return self.element.retract(latent)

    def inside_cone(self, weight: Tensor, floor: float = 0.0) -> Tensor:
        """The weight with every coordinate at least ``floor``."""
        return self.coordinates.write(self.coordinates.read(weight).clamp_min(floor))

    def decayed(self, latent: Tensor, factor: float) -> Tensor:
        """V of ``factor`` W: weight decay that acts on W, where decay on V would pull W to f(0)."""
        shrunk = self.element.inverse(factor * self.element.forward(latent))
        # `abs` and `square` have two branches; a change of branch would turn Adam's momentum around
        return torch.copysign(shrunk, latent) if self.name in ("abs", "square") else shrunk

    def learning_rate_scale(self, latent: Tensor) -> float:
        """1 / mean slope, at most 50: softplus at W = 0.02 moves W fifty times less than V."""
        if not self.scale_learning_rate:
            return 1.0
        mean = float(self.element.slope(latent).abs().double().mean())
        return min(LARGEST_SCALE, 1 / mean) if mean > 0 else 1.0


@dataclass(frozen=True)
class PartMap:
    """The map of a parameter that is constrained in one part only (gate and up fused into one matrix).

    The rest of V is the rest of W. The factor on the learning rate lies inside the map, V = scale x latent, so that
    it reaches the constrained part alone.
    """

    inner: WeightMap
    share: Share
    scale: float

    def _with(self, whole: Tensor, part: Tensor) -> Tensor:
        made = whole.clone()
        self.share.of(made).copy_(part)
        return made

    def inverse(self, weight: Tensor) -> Tensor:
        """The latent of a weight, of its shape."""
        return self._with(weight, self.inner.inverse(self.share.of(weight)) / self.scale)

    def forward(self, latent: Tensor) -> Tensor:
        """W of the latent."""
        return self._with(latent, self.inner.forward(self.share.of(latent) * self.scale))

    def pull_back(self, latent: Tensor, grad_weight: Tensor) -> Tensor:
        """dL/d(latent) from dL/dW, by the chain rule."""
        V, grad = self.share.of(latent) * self.scale, self.share.of(grad_weight)
        return self._with(grad_weight.to(latent.dtype), self.inner.pull_back(V, grad) * self.scale)

    def retract(self, latent: Tensor) -> Tensor:
        """The latent after a step, its constrained part moved back to where it may be."""
        return self._with(latent, self.inner.retract(self.share.of(latent)))  # it clamps at zero: no scale matters

    def decayed(self, latent: Tensor, factor: float) -> Tensor:
        """The latent of ``factor`` W, in the constrained part and outside it."""
        inside = self.inner.decayed(self.share.of(latent) * self.scale, factor) / self.scale
        return self._with(latent * factor, inside)

    def inside_cone(self, weight: Tensor, floor: float = 0.0) -> Tensor:
        """The weight with its constrained part moved into the cone."""
        return self._with(weight, self.inner.inside_cone(self.share.of(weight), floor))

    def learning_rate_scale(self, latent: Tensor) -> float:
        """1: the factor is inside the map."""
        return 1.0


def _map_of(projection: Projection, settings: Constraint) -> WeightMap:
    coordinates = coordinates_of(projection, settings.cone)
    sign = None
    if settings.map == "sign_frozen":
        sign = torch.where(coordinates.read(projection.stored) < 0, -1.0, 1.0)
    return WeightMap(settings.map, coordinates, sign, scale_learning_rate=settings.learning_rate_scale == "auto")


def _merged(projections: list[Projection], settings: Constraint) -> WeightMap | PartMap:
    """The map of one parameter, of which the projections are all that is constrained."""
    share = projections[0].share
    if share is None:
        return _map_of(projections[0], settings)
    if len(projections) == share.parts:
        return _map_of(replace(projections[0], share=None), settings)
    inner = _map_of(projections[0], settings)
    return PartMap(inner, share, inner.learning_rate_scale(inner.inverse(projections[0].stored)))


def weight_maps(model: nn.Module, settings: Constraint) -> dict[str, WeightMap | PartMap]:
    """The map of every constrained parameter, by its name in the model.

    Call it on the started model (`constrain`): ``sign_frozen`` reads its signs here.
    The control without feed-forward nets holds every output projection at zero.

    Raises:
        ConfigurationError: if the scope does not fit the model.
    """
    if settings.init == "no_ffn":
        return {sublayer.exit.weight_name: WeightMap("zero") for sublayer in family_of(model).sublayers(model)}
    by_weight: dict[str, list[Projection]] = defaultdict(list)
    for projection in constrained(model, settings):
        by_weight[projection.weight_name].append(projection)
    return {name: _merged(projections, settings) for name, projections in by_weight.items()}


def whole_maps(model: nn.Module, settings: Constraint) -> dict[str, WeightMap]:
    """`weight_maps` for who cannot handle a parameter that is constrained in one part only (sharded training).

    Raises:
        ConfigurationError: if there is such a parameter.
    """
    split = [projection for projection in constrained(model, settings) if projection.share is not None]
    parts = {projection.weight_name: 0 for projection in split}
    for projection in split:
        parts[projection.weight_name] += 1
    for projection in split:
        if projection.share is not None and parts[projection.weight_name] < projection.share.parts:
            raise ConfigurationError(
                f"constraint.scope {settings.scope} takes one part of {projection.weight_name}, which holds several, and sharded "
                "training deals a matrix out by rows. Choose scope gated_all, or train without sharding."
            )
    maps = weight_maps(model, settings)
    return {name: mapping for name, mapping in maps.items() if isinstance(mapping, WeightMap)}
