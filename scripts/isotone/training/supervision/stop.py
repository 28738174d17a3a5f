"""Being asked to stop, and how much time is left for it."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO

from isotone.training.supervision.outcome import halted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
MARGIN = 5.0  # seconds kept free before a known end


def stop_signals() -> list[signal.Signals]:
    """Those to take over here: a closed terminal (SIGHUP) stops a run, but not one that nohup protects from that."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def job_end() -> float | None:
    """When the scheduler ends the job around this process (wall clock), if it is known.

    profiles/slurm/job.sh tells it where Slurm does not (before 23.02, or inside srun).
    """
    end = os.environ.get("SLURM_JOB_END_TIME") or os.environ.get("ISOTONE_JOB_END_TIME", "")
    return float(end) if end.replace(".", "", 1).isdigit() else None


class Stop:
    """Collects reasons to stop; the loop asks at every step boundary."""

    def __init__(self, folder: Path, study_folder: Path, *, grace: float, event: Callable[..., None]) -> None:
        """Nothing is installed yet; see `install`.

        Args:
            grace: seconds between the first signal and the kill.
        """
        self.folder, self.study_folder, self.grace, self.event = Path(folder), Path(study_folder), grace, event
        self.reason = ""
        self._deadline: float | None = None  # wall clock
        self.job_end = job_end()
        self._looked = 0.0
        self._stacks: IO[str] | None = None
        self._signal: signal.Signals | None = None

    def install(self) -> None:
        """Take over SIGTERM, SIGINT, SIGHUP and SIGUSR1; SIGUSR2 writes all stacks to ``stacks.txt``."""
        for number in stop_signals():
            signal.signal(number, self._on_signal)
        self._stacks = open(self.folder / "stacks.txt", "a")  # noqa: SIM115 (open as long as the process)
        faulthandler.register(signal.SIGUSR2, self._stacks, all_threads=True)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._signal is None:  # the second one of a preemption changes nothing
            self._signal = signal.Signals(number)
            self._deadline = time.time() + self.grace

    def look(self, expected_save: float, step_seconds: float) -> bool:
        """Whether to stop now; files and clocks are looked at once a second at most."""
        if self.reason:
            return True
        if self._signal is not None:
            self.reason = f"signal {self._signal.name}"
            self.event("signal", name=self._signal.name, grace=self.grace)
            return True
        now = time.time()
        if now - self._looked < 1.0:
            return False
        self._looked = now
        if place := halted(self.folder, self.study_folder):
            self.reason = f"{place} exists"
        elif self.job_end is not None and now + 1.5 * expected_save + 2 * step_seconds + MARGIN > self.job_end:
            self.reason = "the time limit of the job is near"
        return bool(self.reason)

    def seconds_left(self) -> float:
        """Seconds until the process is killed, as far as is known."""
        ends = [end for end in (self._deadline, self.job_end) if end is not None]
        return min(ends) - time.time() if ends else float("inf")
