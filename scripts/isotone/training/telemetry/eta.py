"""How long a run will still take."""

from __future__ import annotations

import time


class Eta:
    """Extrapolates the rate of this start."""

    def __init__(self, steps: int) -> None:
        """Take the steps of the whole run."""
        self.steps, self._first, self._begun = steps, 0, time.monotonic()

    def begin(self, step: int) -> None:
        """This start, or what follows a roll-back, begins at ``step``."""
        self._first, self._begun = step, time.monotonic()

    def seconds(self, step: int) -> float | None:
        """Seconds left at ``step``; None before the first step."""
        done = step - self._first
        return round((time.monotonic() - self._begun) / done * (self.steps - step), 1) if done > 0 else None
