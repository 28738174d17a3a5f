"""One optimizer step: the gradient of the global batch, its norms, the update."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from isotone.models import load_model, save_model
from isotone.training.checkpointing.saver import Saver
from isotone.training.checkpointing.store import State
from isotone.training.engine import Engine, is_out_of_memory
from isotone.training.gather import Gatherer
from isotone.training.optimizer import Optimizer
from isotone.training.schedule import Schedule
from isotone.training.state import TrainerState
from isotone.training.telemetry.events import Events
from isotone.training.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


class OutOfMemory(Exception):
    """Memory ran out in some process, behind the sum of gradients: weights may be half updated.

    Every process raises it at the same step.
    """


@dataclass(frozen=True)
class Measured:
    """What a step has computed before it changes anything.

    Attributes:
        tokens: scored tokens of the global batch.
        loss: their mean loss in nats.
        norms: gradient norm of each parameter group, before clipping.
    """

    tokens: float
    loss: float
    norms: dict[str, float]


class Stepper:
    """Model, gradients and optimizer as one thing that takes steps.

    Attributes:
        parts_everywhere: whether each process holds a part of the model only.
    """

    parts_everywhere = False

    def __init__(
        self,
        world: World,
        engine: Engine,
        optimizer: Optimizer,
        gather: Gatherer,
        schedule: Schedule,
        events: Events,
    ) -> None:
        """Nothing is computed yet."""
        self.world, self.engine, self.optimizer, self.gather = world, engine, optimizer, gather
        self.schedule, self.events = schedule, events

    def measure(self, state: TrainerState) -> Measured:
        """Gradients and their norms of the step that follows ``state``; an fp16 overflow lowers the loss scale first.

        Raises:
            OutOfMemory: the caller goes back to a checkpoint.
            ResourceError: if halving the micro-batch does not help.
        """
        while True:
            tokens, loss = self.gather(state, self.optimizer.flat)
            factor = 1 / (tokens * self.engine.loss_scale)
            norms = self._together(lambda factor=factor: self.optimizer.finish_gradients(factor))  # type: ignore[misc]
            overflow = math.isfinite(loss) and not all(map(math.isfinite, norms.values()))
            if not overflow or not self.engine.scale.overflow():
                return Measured(tokens, loss, norms)
            self.events("loss_scale", step=state.step, value=self.engine.scale.value)

    def update(self, state: TrainerState, measured: Measured) -> float:
        """Take the step; returns its learning rate.

        Raises:
            OutOfMemory: the caller goes back to a checkpoint.
        """
        rate = self.schedule.learning_rate(state.step)
        self._together(lambda: self.optimizer.update(rate, measured.norms))
        self.engine.scale.succeed()
        return rate

    def _together(self, work: Callable[[], T]) -> T:
        """Do something that every process must have done, or none."""
        done: list[T] = []
        try:
            done.append(work())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if self.world.any(not done)[0]:
            raise OutOfMemory
        return done[0]

    def load(self, tensors: State, *, updates: int, scales: dict[str, float]) -> None:
        """Take over the tensors of a checkpoint (first process; see `copy_from_leader`)."""
        self.optimizer.load(tensors, updates=updates, scales=scales)

    def copy_from_leader(self, state: TrainerState) -> None:
        """Have the first process's tensors in every process."""
        if self.world.size > 1:
            groups = self.optimizer.state().values()
            self.world.copy_from_leader([value for group in groups for value in group.values()])
            self.optimizer.refresh(updates=state.updates, scales=state.scales)

    def start_weights(self, folder: Path) -> Mapping[str, torch.Tensor]:
        """The weights that a run starts from, by name, in main memory: the device is full."""
        return dict(load_model(folder).named_parameters())

    def take(self, saver: Saver | None, step: int) -> None:
        """Put the weights of a checkpoint into the model (of the first process, which exports it).

        Raises:
            InputOutputError: if it is damaged.
        """
        if saver is not None:
            found = saver.store.read(step)
            self.optimizer.load(found.tensors, updates=self.optimizer.updates, scales=self.optimizer.scales)

    def export(self, saver: Saver | None, step: int, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
        """Write the model as a whole folder (first process).

        Args:
            step: checkpoints below it may go if the disk is full.
        """
        if saver is not None:
            saver.with_room(step, lambda: save_model(self.engine.model, tokenizer, folder))

    def release(self) -> None:
        """Give back the memory of all that only training needs, the model included; no step can follow."""
        self.gather.release()
        self.optimizer.release()
        models: list[Any] = [self.engine.model, self.engine.teacher]
        for model in models:
            if model is not None:
                torch.nn.Module.to(model, "meta")
        gc.collect()
        if self.world.device.type == "cuda":
            torch.cuda.empty_cache()
