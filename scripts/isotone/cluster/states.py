"""The state of jobs when accounting (sacct) and controller (squeue) say different things; nothing is asked here.

| controller | accounting | taken for |
|---|---|---|
| does not answer | anything | what accounting says |
| waiting or running | anything | what the controller says: it was requeued, or accounting lags |
| ended | waiting, running, unknown | what the controller says: accounting lags |
| PREEMPTED, NODE_FAIL, or unknown | PREEMPTED, NODE_FAIL | FAILED, seen twice: nobody brings it back |
| unknown | ended | what accounting says |
| unknown | waiting, running, unknown | still running; FAILED after `PATIENCE`: Slurm has lost it |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

PATIENCE = 600.0  # seconds that accounting may lag behind a controller that has forgotten the job
LEFT = frozenset({"PREEMPTED", "NODE_FAIL", "REQUEUED", "REVOKED"})  # an end only if nobody brings the job back
ENDED = LEFT | {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "LAUNCH_FAILED",
    "OUT_OF_MEMORY",
    "TIMEOUT",
}


def first_word(state: str) -> str:
    """``CANCELLED by 1000`` is CANCELLED."""
    return state.split()[0] if state.strip() else ""


class Reconciler:
    """Makes one answer of two, with a memory of how long a job has been in doubt."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lost: dict[str, float] = {}
        self._left: set[str] = set()

    def __call__(
        self, jobs: Iterable[str], accounting: Mapping[str, str] | None, controller: Mapping[str, str] | None
    ) -> dict[str, str]:
        """State by job number; a job of which nothing is known is left out.

        Args:
            jobs: numbers of the jobs that are believed to be in Slurm's hands.
            accounting, controller: states by job number; None if it did not answer.
        """
        found = {}
        for job in jobs:
            state = self._state(job, accounting, controller)
            if state:
                found[job] = state
        return found

    def _state(self, job: str, accounting: Mapping[str, str] | None, controller: Mapping[str, str] | None) -> str:
        told = first_word((accounting or {}).get(job, ""))
        if controller is None:
            return told
        seen = first_word(controller.get(job, ""))
        if seen and seen not in ENDED:
            self._lost.pop(job, None)
            self._left.discard(job)
            return told if told in ("PREEMPTED", "NODE_FAIL") else seen  # the plugin notes lost nodes, and goes on
        state = seen or told
        if state in LEFT:
            if job in self._left:
                return "FAILED"
            self._left.add(job)  # a requeued job is between two states for a moment
            return "RUNNING"
        if state in ENDED:
            return state
        if accounting is None:
            return ""
        if self._clock() - self._lost.setdefault(job, self._clock()) > PATIENCE:
            return "FAILED"
        return told
