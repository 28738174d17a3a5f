"""Putting a sharded model together from its start folder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from isotone.config.constraint import Constraint
from isotone.config.training import Operation, Training
from isotone.constraints import guard_precision, whole_maps
from isotone.data.batch import Batch
from isotone.tasks import Rows
from isotone.training.checkpointing.lease import Lease
from isotone.training.engine import Engine
from isotone.training.faults import Ledger
from isotone.training.inputs import Run
from isotone.training.schedule import Schedule
from isotone.training.sharding.checkpointer import ShardedCheckpointer
from isotone.training.sharding.gather import ShardedGatherer
from isotone.training.sharding.model import Shards
from isotone.training.sharding.optimizer import ShardedOptimizer, whole_scales
from isotone.training.sharding.start import Weights, bare_model, stored_names
from isotone.training.sharding.stepper import ShardedStepper
from isotone.training.telemetry.events import Events
from isotone.training.telemetry.history import History
from isotone.training.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ShardedEngine(Engine):
    """An engine whose model is gathered layer by layer."""

    shards: Shards
    keeps_casts = False

    def score(self, batch: Batch) -> Tensor:
        """Summed negative log-likelihood of a batch; every process must call it equally often."""
        found = super().score(batch)
        self.shards.reshard()
        return found


@dataclass(frozen=True)
class Sharded:
    """The parts of a run that differ from an unsharded one."""

    training: Training
    world: World
    engine: ShardedEngine
    optimizer: ShardedOptimizer

    def gatherer(self, operation: Operation, seed: int, blocks: Rows, events: Any) -> ShardedGatherer:
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


def build_sharded(
    run: Run,
    world: World,
    events: Events,
    lease: Lease | None,
    train: Rows,
    schedule: Schedule,
    ledger: Ledger,
    teacher: PreTrainedModel | None,
) -> tuple[ShardedStepper, ShardedCheckpointer, History | None]:
    """The parts of a sharded run that differ from another's; all processes call it."""
    job, operation = run.job, run.operation
    parts = sharded(run.start, job.constraint, job.training, world, teacher=teacher)
    gather = parts.gatherer(operation, job.seed, train, events)
    stepper = ShardedStepper(world, parts.engine, parts.optimizer, gather, schedule, events)
    history = History(run.folder / "history.csv", parts.optimizer.used_groups()) if world.leads else None
    checkpointer = ShardedCheckpointer(operation, schedule, ledger)
    stepper.saver = checkpointer.hold_part(
        world,
        lease,
        parts.optimizer,
        events=events,
        before=history.sync if history else lambda: None,
        timeout=timedelta(minutes=operation.collective_minutes),
    )
    return stepper, checkpointer, history
