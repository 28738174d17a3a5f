"""A hang is noticed: no step for ten medians, so all stacks are written and the process ends."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from isotone.errors import UNFINISHED
from isotone.training.observer import Observer
from isotone.training.state import TrainerState

FIRST_STEP = 10  # times the floor: compilation, first reads of a cold disk
STUCK = 60.0  # seconds more, after which an interpreter in which even this thread cannot run is ended from outside
STILL = 3.0  # a look that comes so much later than asked: the process was stopped, or the interpreter busy


class Watchdog(Observer):
    """A thread that expects to hear of every step.

    It sleeps during work that is no step: how long a disk takes to save 17 GB, or a
    certificate to be computed, says nothing about a hang, and whoever is ended there is
    ended there again by the next start. Time in which the process was stopped (``scontrol suspend``)
    does not count.
    """

    def __init__(self, path: Path, *, medians: float, floor: float, hung: Callable[[float], None]) -> None:
        """Start watching; ``medians = 0`` never does.

        Args:
            path: where stacks go.
            floor: seconds that are never a hang.
            hung: is told how long nothing has happened, just before the process ends with 75.
        """
        self.path, self.medians, self.floor, self.hung = path, medians, floor, hung
        self._steps: deque[float] = deque(maxlen=64)
        self._last = time.monotonic()
        self._working = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if medians:
            self._thread.start()

    def allowance(self) -> float:
        """Seconds of silence that are accepted at present."""
        if not self._steps:
            return self.floor * FIRST_STEP
        return max(self.floor, self.medians * statistics.median(self._steps))

    def silence(self) -> float:
        """Seconds since something moved; 0 while work goes on that is no step."""
        return 0.0 if self._working else time.monotonic() - self._last

    def on_resume(self, state: TrainerState) -> None:
        """The clock begins anew."""
        self.on_beat()

    def on_beat(self) -> None:
        """Something moved."""
        self._last = time.monotonic()

    def on_step(self, seconds: float) -> None:
        """A step ended."""
        self._steps.append(seconds)
        self.on_beat()

    def on_work(self, what: str) -> None:
        """Fall asleep, or wake when the outermost work is over."""
        self.on_beat()
        self._working += 1 if what else -1

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        pause = min(1.0, self.floor / 4) if self.floor else 0.1
        looked = time.monotonic()
        with open(self.path, "a") as file, _sentinel() as allow:
            while not self._closed.wait(pause):
                late, looked = time.monotonic() - looked > pause + STILL, time.monotonic()
                if late:
                    self.on_beat()
                allow(float("inf") if self._working else self.allowance() + STUCK)
                if (silent := self.silence()) > self.allowance():
                    file.write(f"no step for {silent:.1f} s; all stacks:\n")
                    faulthandler.dump_traceback(file, all_threads=True)
                    self.hung(silent)
                    os._exit(UNFINISHED)


@contextlib.contextmanager
def _sentinel() -> Iterator[Callable[[float], None]]:
    """A process that ends this one unless it is told in time how long the next silence may be; see `sentinel`."""
    lines, end = os.pipe()
    os.set_blocking(end, False)
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("sentinel.py")), str(os.getpid())]
    process = None
    with contextlib.suppress(OSError):  # no room for another process
        process = subprocess.Popen(command, stdin=lines)
    os.close(lines)

    def allow(seconds: float) -> None:
        with contextlib.suppress(OSError):  # it is gone, or does not listen
            os.write(end, f"{seconds}\n".encode())

    try:
        yield allow
    finally:
        os.close(end)
        if process:
            process.kill()  # not by the pipe's end alone: a forked child may hold that
            process.wait()
