"""Weight maps on rows: most act element by element; the strict cone's coordinates mix rows or columns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from isotone.constraints.maps import WeightMap
from isotone.training.sharding.model import Shards
from isotone.training.sharding.slices import Rows


def signed(one: WeightMap, weight: Tensor) -> WeightMap:
    """The map with the signs of this (part of a) weight, where it keeps signs."""
    if one.sign is None:
        return one
    return dataclasses.replace(one, sign=torch.where(one.coordinates.read(weight) < 0, -1.0, 1.0))


@dataclass(frozen=True)
class MixingMap:
    """A map whose coordinates are taken of whole weights, because a product's bits depend on its number of rows.

    Every call that needs a whole weight gathers one, in all processes in the same order.

    Attributes:
        one: the map of the whole weight.
        weight_rows, latent_rows: what this process holds of W and of V.
    """

    one: WeightMap
    shards: Shards
    weight_rows: Rows
    latent_rows: Rows

    def inverse(self, weight: Tensor) -> Tensor:
        """V for a W in the range of f."""
        return self.latent_rows.cut(self.one.inverse(self.shards.to_all(self.weight_rows, weight)))

    def forward(self, latent: Tensor) -> Tensor:
        """W."""
        return self.weight_rows.cut(self.one.forward(self.shards.to_all(self.latent_rows, latent)))

    def pull_back(self, latent: Tensor, grad_weight: Tensor) -> Tensor:
        """dL/dV from dL/dW."""
        grad = self.one.coordinates.read(self.shards.to_all(self.weight_rows, grad_weight).to(latent.dtype))
        return (self.latent_rows.cut(grad) * self.one.element.slope(latent)).contiguous()

    def retract(self, latent: Tensor) -> Tensor:
        """V back in its domain after a step."""
        return self.one.retract(latent)

    def decayed(self, latent: Tensor, factor: float) -> Tensor:
        """V of ``factor`` W."""
        return self.one.decayed(latent, factor)

    def learning_rate_scale(self, latent: Tensor) -> float:
        """Unknown here: it is a mean over the whole V."""
        raise NotImplementedError("taken of whole start weights")
