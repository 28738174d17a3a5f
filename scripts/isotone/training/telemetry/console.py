"""A line now and then for whoever watches: a bar on a terminal, a line in a log."""

from __future__ import annotations

import sys
import time

from isotone.progress import duration, quantity
from isotone.records import Json
from isotone.training.observer import Observer
from isotone.training.state import TrainerState
from isotone.training.telemetry.eta import Eta
from isotone.training.telemetry.events import say


class Console(Observer):
    """Says where the run stands (first process only)."""

    def __init__(self, steps: int) -> None:
        """Nothing is said before the first interval is over."""
        self.steps, self._eta = steps, Eta(steps)
        self._spoken = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._every = 0.25 if self._terminal else 5.0

    def on_resume(self, state: TrainerState) -> None:
        """Count the time left from here."""
        self._eta.begin(state.step)

    def on_row(self, row: Json, state: TrainerState) -> None:
        """Say it, if it is time."""
        if row.get("validation_loss") is not None:
            say(f"step {row['step']} of {self.steps}: validation loss {row['validation_loss']:.4f} nats/token")
        now = time.monotonic()
        if now - self._spoken < self._every or "loss" not in row:
            return
        self._spoken = now
        eta = self._eta.seconds(int(row["step"]))
        left = f", {duration(eta)} left" if eta is not None else ""
        line = f"step {row['step']} of {self.steps}, loss {row['loss']:.4f}, {quantity(row['tokens_per_second'])} tokens/s{left}"
        if self._terminal:
            share = int(20 * row["step"] / self.steps)
            sys.stderr.write(f"\r\x1b[2K[{'=' * share}{' ' * (20 - share)}] {line}")
            sys.stderr.flush()
        else:
            say(line)
