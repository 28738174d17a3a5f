"""A sign of life of every process: ``heartbeat.json``, and a history of it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from isotone.records import Json
from isotone.training.observer import Observer
from isotone.training.state import TrainerState
from isotone.training.telemetry.eta import Eta
from isotone.training.telemetry.machine import resident_memory
from isotone.training.telemetry.rotation import Rotated

EVERY = 1.0  # seconds between heartbeats
KEEP_EVERY = 10.0  # seconds between those that the history keeps
LIMIT = 1 << 20  # bytes of that history; most of a day


class Heartbeat(Observer):
    """``heartbeat.json`` of the first process, ``heartbeat-<rank>.json`` of the others.

    ``heartbeats.jsonl`` (``heartbeats-<rank>.jsonl``) keeps one of them every ten seconds,
    so that a process that was slow or growing is found afterwards too.
    """

    def __init__(self, folder: Path, *, name: str, rank: int, steps: int) -> None:
        """Nothing is written before `on_resume`.

        Args:
            name: of the run, such as ``baseline/seed-42``.
        """
        self.name, self.rank, self.steps = name, rank, steps
        suffix = f"-{rank}" if rank else ""
        self.path = Path(folder) / f"heartbeat{suffix}.json"
        self._history = Rotated(Path(folder) / f"heartbeats{suffix}.jsonl", LIMIT)
        self._eta = Eta(steps)
        self._row: Json = {}
        self._goodput: float | None = None
        self._work: list[str] = []
        self._beaten = self._kept = float("-inf")

    def on_resume(self, state: TrainerState) -> None:
        """Beat: a run is known by name before its first step, which may take minutes."""
        self._eta.begin(state.step)
        self._row, self._goodput = {"step": state.step}, None
        self.beat(force=True)

    def on_row(self, row: Json, state: TrainerState) -> None:
        """Beat with the figures of a step; a validation is never left out."""
        self._row = row
        self._goodput = round(state.useful / max(time.time() - state.begun, 1e-9), 4)
        self.beat(force=row.get("validation_loss") is not None)

    def on_beat(self) -> None:
        """Beat with the last step's figures."""
        self.beat()

    def on_work(self, what: str) -> None:
        """Say what is being done instead of steps."""
        if what:
            self._work.append(what)
        elif self._work:
            self._work.pop()
        self.beat()

    def beat(self, *, force: bool = False) -> None:
        """Rewrite the file, once a second at most."""
        now = time.monotonic()
        if now - self._beaten < EVERY and not force:
            return
        self._beaten = now
        text = json.dumps(self._facts())
        part = self.path.with_suffix(".part")
        with contextlib.suppress(OSError):
            part.write_text(text)
            os.replace(part, self.path)
        if now - self._kept >= KEEP_EVERY:
            self._kept = now
            self._history.append(text)

    def _facts(self) -> dict[str, Any]:
        facts = {key: self._row.get(key) for key in ("step", "epoch", "loss", "tokens_per_second", "fetch_seconds")}
        return facts | {
            "time": time.time(),
            "name": self.name,
            "rank": self.rank,
            "steps": self.steps,
            "eta_seconds": self._eta.seconds(int(self._row.get("step") or 0)),
            "goodput": self._goodput,
            "rss": resident_memory(),
            "memory_allocated": self._row.get("memory_allocated"),
            "doing": self._work[-1] if self._work else "steps",
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
