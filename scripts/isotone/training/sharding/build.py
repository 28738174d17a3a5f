"""Putting a sharded model together from its start folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from isotone.config.constraint import Constraint
from isotone.config.training import Operation, Training
from isotone.constraints import guard_precision, whole_maps
from isotone.data.blocks import Blocks
from isotone.training.engine import Engine
from isotone.training.sharding.gather import ShardedGatherer
from isotone.training.sharding.model import Shards
from isotone.training.sharding.optimizer import ShardedOptimizer, whole_scales
from isotone.training.sharding.start import Weights, bare_model, stored_names
from isotone.training.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ShardedEngine(Engine):
    """An engine whose model is gathered layer by layer."""

    shards: Shards

    def score(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Summed negative log-likelihood of a batch; every process must call it equally often."""
        found = super().score(inputs_BT, targets_BT)
        self.shards.reshard()
        return found


@dataclass(frozen=True)
class Sharded:
    """The parts of a run that differ from an unsharded one."""

    training: Training
    world: World
    engine: ShardedEngine
    optimizer: ShardedOptimizer

    def gatherer(self, operation: Operation, seed: int, blocks: Blocks, events: Any) -> ShardedGatherer:
        """What sums this run's gradients."""
        made = ShardedGatherer(self.training, operation, seed, self.world, self.engine, blocks, events)
        made.optimizer = self.optimizer
        return made


def sharded(
    start: Path, constraint: Constraint, training: Training, world: World, *, teacher: PreTrainedModel | None
) -> Sharded:
    """Read a start model into shards and prepare its training.

    Args:
        start: a model folder; no process ever holds all of it.

    Raises:
        ConfigurationError: if its weights cannot be read in slices, or cannot be dealt out.
    """
    model = bare_model(start)
    weights = Weights(start, stored_names(model))
    guard_precision(model, constraint)
    maps = whole_maps(model, constraint)
    engine = ShardedEngine(model, training, world.device, teacher)
    engine.shards = shards = Shards(model, engine.loss, training, world)
    engine.loss = shards.root
    shards.load(weights)
    optimizer = ShardedOptimizer(
        shards,
        maps,
        whole_scales(shards, maps, weights),
        training,
        decay_weight=constraint.weight_decay_on == "weight",
    )
    return Sharded(training, world, engine, optimizer)
