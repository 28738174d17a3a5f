"""When the loop saves, what stays, and what it goes back to. Only the first process has a disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from isotone.config.training import Operation
from isotone.records import Json
from isotone.training.checkpointing.lease import Lease
from isotone.training.checkpointing.saver import Saver
from isotone.training.checkpointing.store import Checkpoint, State, Store, retained
from isotone.training.faults import Ledger
from isotone.training.schedule import Schedule
from isotone.training.state import TrainerState


class Checkpointer:
    """The checkpoints of one run, as its loop sees them; in other processes than the first every call does nothing.

    Attributes:
        saver, lease: None in other processes than the first.
    """

    def __init__(self, operation: Operation, schedule: Schedule, ledger: Ledger) -> None:
        """Without a disk; `hold` gives it one."""
        self.operation, self.schedule, self.ledger = operation, schedule, ledger
        self.saver: Saver | None = None
        self.lease: Lease | None = None
        self.state: TrainerState | None = None
        self._saved = time.monotonic()

    def hold(self, lease: Lease, tensors: State, *, events: Callable[..., None], before: Callable[[], None]) -> None:
        """Save below the folder of a lease.

        Args:
            tensors: what will be saved, for its size.
            before: makes the logs durable that a checkpoint refers to.
        """
        self.lease = lease
        self.saver = Saver(**self.options(Store(lease.checkpoints, events), lease.generation, before))
        self.saver.measure(tensors)

    def options(self, store: Store, generation: int, before: Callable[[], None]) -> dict[str, Any]:
        """How a `Saver` of this run works."""
        return {
            "store": store,
            "background": self.operation.background_save,
            "label": f"{generation:06d}",
            "retained": self._stays,
            "essential": self._always,
            "before": before,
        }

    def _always(self) -> set[int]:
        best = self.state.best if self.state else None
        return {*self.schedule.milestones.values(), *([best["step"]] if best else [])}

    def _stays(self, steps: Collection[int]) -> set[int]:
        return retained(
            steps,
            keep=self.operation.keep,
            is_epoch_end=self.schedule.is_epoch_end,
            is_anchor=self.schedule.is_anchor,
            always=self._always(),
        )

    def fits(self, progress: Json) -> bool:
        """Whether a checkpoint is part of the history that the ledger tells."""
        return self.ledger.admits(progress["step"], progress["ledger"])

    def newest(self, before: int | None = None) -> Checkpoint | None:
        """The newest whole checkpoint of this history, below ``before`` if that is given."""
        return self.saver.store.newest(self.fits, before) if self.saver else None

    def begin(self, state: TrainerState) -> None:
        """The loop stands at ``state``; minutes count from here."""
        self.state, self._saved = state, time.monotonic()

    def check(self) -> None:
        """Make sure that nobody took over.

        Raises:
            LostLease: if somebody did.
        """
        if self.lease:
            self.lease.check()

    def due(self, step: int) -> bool:
        """Whether the state after ``step`` steps is saved; epoch ends are, once they are validated."""
        schedule, operation = self.schedule, self.operation
        if schedule.is_epoch_end(step):
            return False
        minutes = operation.save_every_minutes
        return bool(
            schedule.is_anchor(step)
            or step in schedule.milestones.values()
            or (operation.save_every_steps and step % operation.save_every_steps == 0)
            or (minutes and time.monotonic() - self._saved > 60 * minutes)
        )

    def save(self, state: TrainerState, tensors: State) -> None:
        """Write a checkpoint, in the background if so chosen."""
        self._saved = time.monotonic()
        if self.saver is None:
            return
        self.check()
        state.stall, self.saver.stall = state.stall + self.saver.stall, 0.0
        self.saver.save(state.step, tensors, state.state())

    def join(self) -> None:
        """Wait for a save in flight."""
        if self.saver:
            self.saver.join()

    def hurry(self) -> None:
        """The process is about to end: nothing is read back any more."""
        if self.saver:
            self.saver.hurry = True

    @property
    def saved(self) -> int:
        """The step of the newest checkpoint; 0 without one."""
        return max(self.saver.store.steps(), default=0) if self.saver else 0

    @property
    def expected_seconds(self) -> float:
        """How long the next save will take."""
        return self.saver.expected_seconds() if self.saver else 0.0

    @property
    def stall(self) -> float:
        """Seconds that training stood still for saves since the last checkpoint."""
        return self.saver.stall if self.saver else 0.0

    @property
    def size(self) -> int:
        """Bytes of one checkpoint."""
        return self.saver.size if self.saver else 0
