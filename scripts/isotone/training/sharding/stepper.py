"""Steps of a sharded model: what every process does for its own rows, and what is left to the next start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from isotone.errors import InputOutputError
from isotone.training.checkpointing.parts import read_rows
from isotone.training.checkpointing.saver import Saver
from isotone.training.checkpointing.store import State
from isotone.training.sharding.export import export
from isotone.training.sharding.optimizer import ShardedOptimizer
from isotone.training.sharding.saver import ShardedSaver
from isotone.training.sharding.start import Weights, stored_names
from isotone.training.state import TrainerState
from isotone.training.stepper import Stepper

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


class ShardedStepper(Stepper):
    """Model, gradients and optimizer, of which each process has some rows."""

    parts_everywhere = True
    optimizer: ShardedOptimizer
    saver: ShardedSaver

    def _together(self, work: Callable[[], T]) -> T:
        """Do it: a process that runs out of memory here ends them all, because the others sit in a collective."""
        return work()

    def load(self, tensors: State, *, updates: int, scales: dict[str, float]) -> None:
        """Nothing: each process reads its own rows (`copy_from_leader`)."""

    def copy_from_leader(self, state: TrainerState) -> None:
        """Stand where the checkpoint of ``state`` stands, which the first process has verified."""
        self._read(state.step)
        self.optimizer.refresh(updates=state.updates, scales=state.scales)

    def start_weights(self, folder: Path) -> Mapping[str, Tensor]:
        """This process's rows of the weights that the run starts from."""
        shards = self.optimizer.shards
        return shards.part_of(Weights(folder, stored_names(shards.model)))

    def take(self, saver: Saver | None, step: int) -> None:
        """Put the weights of a checkpoint into the model.

        Raises:
            InputOutputError: in all processes, if it is damaged.
        """
        damaged = ""
        if self.world.leads:
            try:
                self.saver.store.read(step, tensors=False)
            except InputOutputError as error:
                damaged = str(error)
        if damaged := self.world.share(damaged):
            raise InputOutputError(damaged)
        self._read(step)
        self.optimizer.refresh(updates=self.optimizer.updates, scales=self.optimizer.scales)

    def export(self, saver: Saver | None, step: int, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
        """Write the model as a whole folder (first process), tensor by tensor."""
        self.saver.with_room(step, partial(export, self.optimizer.shards, tokenizer, folder))

    def _read(self, step: int) -> None:
        store = self.saver.store
        read_rows(store.path(step), store.files(step), self.optimizer.rows, self.optimizer.state())
