"""AdamW with the constraint, on slices: element by element what the unsharded one does to whole tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from isotone.config.training import Training
from isotone.constraints.maps import WeightMap
from isotone.errors import ConfigurationError
from isotone.training.optimizer import Optimizer
from isotone.training.sharding.maps import MixingMap, signed
from isotone.training.sharding.model import Shards
from isotone.training.sharding.reduction import sum_replicated
from isotone.training.sharding.slices import Rows
from isotone.training.sharding.start import Weights
from isotone.training.supervision.outcome import ResourceError


@torch.no_grad()
def whole_scales(shards: Shards, maps: Mapping[str, WeightMap], weights: Weights) -> dict[str, float]:
    """The factor on each latent's learning rate, from whole start weights: each process reads some of them."""
    world, names = shards.world, list(maps)
    table = torch.zeros(len(names), dtype=torch.float64)
    for index in range(world.rank, len(names), world.size):
        one = maps[names[index]]
        if one.scale_learning_rate:
            weight = weights.read(names[index]).to(world.device)
            table[index] = one.learning_rate_scale(signed(one, weight).inverse(weight).contiguous().clone())
        else:
            table[index] = 1.0
    return dict(zip(names, world.table(table).tolist(), strict=True))


BLOCK = 64  # values; at least what any CPU computes at once


class ShardedOptimizer(Optimizer):
    """Parameters, gradients, latents and moments of this process's slices."""

    def __init__(
        self,
        shards: Shards,
        maps: Mapping[str, WeightMap],
        scales: Mapping[str, float],
        training: Training,
        *,
        decay_weight: bool,
    ) -> None:
        """Set V to the inverse image of W, and W to f(V), on loaded shards.

        ``rows`` then tells by name which rows of V (where unconstrained, of W) this process holds.

        Args:
            scales: as `whole_scales` found them.
        """
        self.shards, self._given_scales = shards, scales
        self.rows = dict(shards.rows)
        self._latent_width: dict[str, int] = {}
        local = {name: self._on_rows(name, one) for name, one in maps.items()}
        if training.reduction == "exact":
            self._check_blocks(training.threads)
        super().__init__(shards.model, local, training, decay_weight=decay_weight)

    def _trainable(self, model: torch.nn.Module) -> dict[str, Tensor]:
        return {name: value for name, value in self.shards.local.items() if self.shards.parameters[name].requires_grad}

    def _check_blocks(self, threads: int) -> None:
        """Refuse shapes of which a part need not have the bits of the whole.

        A CPU computes whole vectors of values in one way and what is left at the end of a tensor in another
        (exponentials differ in the last bit), so nothing may be left at the end of a process's part.
        """
        ranks = self.shards.world.size
        for name, rows in self.rows.items():
            width = torch.Size(self.shards.local[name].shape[1:]).numel()
            width = self._latent_width.get(name, width)
            each = Rows.of(rows.size, 0, ranks).count * width
            if not rows.is_whole and each % BLOCK:
                raise ResourceError(
                    f"{name} would be dealt out in parts of {each} values, which is no multiple of {BLOCK}; with "
                    "training.reduction: exact the parts would not have the bits of the whole. Start another number of "
                    "processes, choose reduction: fast, or set operation.sharding: none."
                )
        if threads > 1 and self.shards.world.device.type == "cpu":
            raise ResourceError(
                f"training.threads is {threads}, and threads cut whole tensors and parts in different places; with "
                "training.reduction: exact they would not have the same bits. Set training.threads: 1, or choose "
                "reduction: fast, or operation.sharding: none."
            )

    def _on_rows(self, name: str, one: WeightMap) -> WeightMap | MixingMap:
        """A map of this process's rows; `rows` then says which rows of V they are."""
        shards, rows = self.shards, self.rows[name]
        if not one.coordinates.side:
            return signed(one, shards.local[name])
        if one.sign is not None:
            raise ConfigurationError(
                "constraint.map sign_frozen under constraint.cone strict is not sharded. Set operation.sharding: none."
            )
        shape = torch.Size([rows.size, *shards.local[name].shape[1:]])
        latent = one.coordinates.read(torch.empty(shape, device="meta")).shape
        self._latent_width[name] = latent[1]
        self.rows[name] = Rows.of(latent[0], shards.world.rank, shards.world.size)
        return MixingMap(one, shards, rows, self.rows[name])

    def _scale(self, name: str) -> float:
        return self._given_scales[name]

    @torch.no_grad()
    def collect(self, into: Tensor, add: bool) -> None:
        """Move the summed gradients of the leaves that all processes have just passed to a buffer.

        Args:
            into: laid out as ``flat``.
            add: to what is there, instead of overwriting it.
        """
        vectors: dict[str, Tensor] = {}
        sizes = [value.numel() for value in self.parameters.values()]
        places = dict(zip(self.parameters, into.split(sizes), strict=True))
        for name, grad in self.shards.take_gradients():
            if name not in places:
                continue
            if self.shards.rows[name].is_whole:
                vectors[name] = torch.zeros_like(self.parameters[name]) if grad is None else grad
            else:
                _put(places[name], grad, add=add)
        if vectors:
            total = sum_replicated(torch.cat([grad.view(-1) for grad in vectors.values()]), self.shards.world.size)
            parts = total.split([grad.numel() for grad in vectors.values()])
            for name, part in zip(vectors, parts, strict=True):
                _put(places[name], part, add=add)

    def _norm(self, names: Sequence[str]) -> Tensor | None:
        """The norm that `torch.nn.utils.get_total_norm` gives for whole tensors, bit by bit.

        A sum of squares depends on its order, so each tensor's norm is taken of the whole tensor: one process
        after the other gets one. That sends each gradient once more, a fraction of what a leaf sends.
        """
        world, values = self.shards.world, self.values()
        grads = {name: grad for name in names if (grad := values[name].grad) is not None}
        if not grads:
            return None
        norms = torch.zeros(len(grads), dtype=torch.float32)
        cut = [index for index, name in enumerate(grads) if not self.rows[name].is_whole]
        everything = list(grads.items())
        for first in range(0, len(cut), world.size):
            batch = cut[first : first + world.size]
            whole = self.shards.to_owners(
                [(self.rows[name], grad) for name, grad in (everything[index] for index in batch)]
            )
            if whole is not None:
                norms[batch[world.rank]] = torch._foreach_norm([whole])[0].cpu()
        norms = world.table(norms)
        for index, (name, grad) in enumerate(everything):
            if self.rows[name].is_whole:
                norms[index] = torch._foreach_norm([grad])[0].cpu()
        return torch.linalg.vector_norm(norms.to(world.device))


def _put(place: Tensor, grad: Tensor | None, *, add: bool) -> None:
    if grad is None:
        if not add:
            place.zero_()
    elif add:
        place.add_(grad.reshape(-1))
    else:
        place.copy_(grad.reshape(-1))
