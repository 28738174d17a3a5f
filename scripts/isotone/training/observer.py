"""Watching a run without taking part in it: the hooks that the loop calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from isotone.records import Json
from isotone.training.state import TrainerState


class Observer:
    """Does nothing at any hook; what watches a run overrides those it needs.

    Every process calls the hooks of its own observers, in the order of the list that the
    loop was given. No hook changes what is computed.
    """

    def on_resume(self, state: TrainerState) -> None:
        """The run stands at ``state``: at its beginning, behind a checkpoint, or where a roll-back led."""

    def on_step(self, seconds: float) -> None:
        """An optimizer step was accepted; it took ``seconds``."""

    def on_row(self, row: Json, state: TrainerState) -> None:
        """A row of the history is complete; an observer may fill in columns for those behind it."""

    def on_beat(self) -> None:
        """Something moved that is no step, such as a batch of a validation."""

    def on_work(self, what: str) -> None:
        """Work begins that is no step and may take long (``"saving"``); empty: it is over."""

    def on_save(self, state: TrainerState) -> None:
        """A checkpoint is about to be made: note in ``state`` what must be found again."""

    def close(self) -> None:
        """The run ends, well or not."""


class Observers(Observer):
    """Several observers as one."""

    def __init__(self, *watching: Observer) -> None:
        """Keep their order."""
        self.watching = watching

    def on_resume(self, state: TrainerState) -> None:
        """Tell all."""
        for observer in self.watching:
            observer.on_resume(state)

    def on_step(self, seconds: float) -> None:
        """Tell all."""
        for observer in self.watching:
            observer.on_step(seconds)

    def on_row(self, row: Json, state: TrainerState) -> None:
        """Tell all."""
        for observer in self.watching:
            observer.on_row(row, state)

    def on_beat(self) -> None:
        """Tell all."""
        for observer in self.watching:
            observer.on_beat()

    def on_work(self, what: str) -> None:
        """Tell all."""
        for observer in self.watching:
            observer.on_work(what)

    def on_save(self, state: TrainerState) -> None:
        """Tell all."""
        for observer in self.watching:
            observer.on_save(state)

    def close(self) -> None:
        """Close all."""
        for observer in self.watching:
            observer.close()

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Around work that is no step: nobody takes its silence for a hang.

        Blocks may lie within one another.
        """
        self.on_work(what)
        try:
            yield
        finally:
            self.on_work("")
