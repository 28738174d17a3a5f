"""A hang is noticed: no step for ten medians, so all stacks are written and the process ends."""

from __future__ import annotations

import faulthandler
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from isotone.errors import UNFINISHED

FIRST_STEP = 10  # times the floor: compilation, first reads of a cold disk


class Watchdog:
    """A thread that expects to hear of every step."""

    def __init__(self, path: Path, *, medians: float, floor: float, hung: Callable[[float], None]) -> None:
        """Start watching; ``medians = 0`` never does.

        Args:
            path: where stacks go.
            floor: seconds that are never a hang.
            hung: is told how long nothing has happened, just before the process ends with 75.
        """
        self.path, self.medians, self.floor, self.hung = path, medians, floor, hung
        self._steps: deque[float] = deque(maxlen=64)
        self._last = self._started = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if medians:
            self._thread.start()

    def allowance(self) -> float:
        """Seconds of silence that are accepted at present."""
        if not self._steps:
            return self.floor * FIRST_STEP
        return max(self.floor, self.medians * statistics.median(self._steps))

    def beat(self) -> None:
        """Something moved (a batch of a validation, a file)."""
        self._last = time.monotonic()

    def step(self, seconds: float) -> None:
        """A step ended."""
        self._steps.append(seconds)
        self.beat()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        pause = min(1.0, self.floor / 4) if self.floor else 0.1
        with open(self.path, "a") as file:
            while not self._closed.wait(pause):
                silent = time.monotonic() - self._last
                # If the interpreter itself is stuck this thread cannot run; a C thread then ends the process.
                faulthandler.dump_traceback_later(self.allowance() + 60, exit=True, file=file)
                if silent > self.allowance():
                    file.write(f"no step for {silent:.1f} s; all stacks:\n")
                    faulthandler.dump_traceback(file, all_threads=True)
                    self.hung(silent)
                    os._exit(UNFINISHED)
            faulthandler.cancel_dump_traceback_later()
