"""What a run tells the world: history.csv, events.jsonl, heartbeat.json, a line now and then.

None of it may stop training: a full disk loses telemetry, not steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isotone.progress import duration, quantity
from isotone.training.telemetry.criteria import Judge
from isotone.training.telemetry.gpu import recent_use
from isotone.training.telemetry.tfevents import EventWriter

COLUMNS = (
    "step,epoch,tokens,loss,validation_loss,learning_rate,{norms},tokens_per_second,fetch_seconds,"
    "memory_allocated,memory_reserved,rss,free_disk,seconds,stall_seconds"
)
LOW_DISK = 2  # checkpoints that should still fit
EVERY = 1.0  # seconds between heartbeats


def resident_memory() -> int:
    """Bytes of this process in main memory."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Events:
    """``events.jsonl`` and the program's own log, line by line, stamped in UTC."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        """Append to what earlier starts left; other ranks than the first only speak to stderr."""
        self.path = Path(folder) / "events.jsonl"
        self.rank = rank

    def __call__(self, kind: str, **facts: Any) -> None:
        """Record one event; alarms are said aloud too."""
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        if kind in ("alarm", "damaged", "out_of_memory", "skip", "roll_back", "criterion", "advice"):
            say(f"{kind}: {json.dumps(facts, default=str)}")
        if self.rank:
            return
        line = json.dumps({"time": stamp, "event": kind, "pid": os.getpid(), **facts}, default=str)
        with contextlib.suppress(OSError), open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def say(message: str) -> None:
    """One line to stderr, with the time."""
    print(f"{datetime.now(UTC):%H:%M:%S} {message}", file=sys.stderr, flush=True)


class History:
    """``history.csv``: one row per step, cut back to the checkpoint on resume."""

    def __init__(self, path: Path, groups: list[str]) -> None:
        """Name the columns.

        Args:
            groups: parameter groups whose gradient norms have a column.
        """
        self.path = Path(path)
        self.columns = COLUMNS.format(norms=",".join(f"grad_norm_{group}" for group in groups)).split(",")
        self._file: Any = None

    def open(self, position: int, step: int) -> None:
        """Continue behind ``position`` bytes, which end with the row of ``step``; 0: a new file."""
        self.close()
        with contextlib.suppress(OSError):
            if position and self.path.exists() and self.path.stat().st_size >= position:
                os.truncate(self.path, position)
            else:
                self._rewrite(step if position else -1)  # without a checkpoint step 0 is told again too
            self._file = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def _rewrite(self, step: int) -> None:
        """Keep the rows up to ``step`` of a file that does not reach the known position."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        keep = [line for line in lines[1:] if (number := line.partition(",")[0]).isdigit() and int(number) <= step]
        text = "\n".join([",".join(self.columns), *keep]) + "\n"
        self.path.write_text(text, newline="")

    def row(self, values: Mapping[str, Any]) -> None:
        """Append one step; a column without a value stays empty."""
        if self._file is None:
            return
        cells = [_cell(values.get(column)) for column in self.columns]
        with contextlib.suppress(OSError, ValueError):
            self._file.write(",".join(cells) + "\n")
            self._file.flush()

    def position(self) -> int:
        """Bytes so far, for the checkpoint."""
        return self.path.stat().st_size if self.path.exists() else 0

    def sync(self) -> None:
        """Make the rows durable that a checkpoint is about to refer to."""
        with contextlib.suppress(OSError, ValueError):
            if self._file is not None:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.8g}" if isinstance(value, float) else str(value)


class Telemetry:
    """Everything that is told about steps; the other ranks only beat their heart."""

    def __init__(self, folder: Path, *, name: str, rank: int, groups: list[str], steps: int, tensorboard: bool) -> None:
        """Nothing is written before `resume`.

        Args:
            name: of the run, such as ``baseline/seed-42``.
        """
        self.folder, self.name, self.rank, self.steps = Path(folder), name, rank, steps
        self.history = History(self.folder / "history.csv", groups) if rank == 0 else None
        self.board = EventWriter(self.folder / "tensorboard") if tensorboard and rank == 0 else None
        self.judge: Judge | None = None
        self._beaten = self._spoken = time.monotonic()
        self._alarmed = False
        self._started = time.monotonic()
        self._first_step = 0
        self._terminal = sys.stderr.isatty()
        self._every = 0.25 if self._terminal else 5.0

    def resume(self, step: int, position: int) -> None:
        """Cut the history back to a checkpoint and go on behind it."""
        if self.history:
            self.history.open(position, step)
        if self.board:
            self.board.restart(step)
        self._first_step, self._started = step, time.monotonic()
        self.beat({"step": step}, None, force=True)  # known by name before its first step, which may take minutes

    def step(
        self, row: dict[str, Any], *, goodput: float, state_bytes: int, event: Events, force: bool = False
    ) -> None:
        """Tell about one finished step."""
        step = int(row["step"])
        if self.history:
            row["rss"], row["free_disk"] = resident_memory(), self._free_disk(state_bytes, event)
            self.history.row(row)
        if self.board:
            self.board.scalars(step, {key: value for key, value in row.items() if isinstance(value, float)})
        if self.judge and not self.rank:
            self.judge.step(row, lambda: recent_use(self.folder / "gpu.jsonl"))
        self.beat(row, goodput, force=force)
        self._speak(row)

    def _free_disk(self, state_bytes: int, event: Events) -> int:
        free = shutil.disk_usage(self.folder).free
        if free < LOW_DISK * state_bytes and not self._alarmed:
            self._alarmed = True
            event("alarm", what="the disk is nearly full", free=free, checkpoint=state_bytes)
        return free

    def beat(self, row: Mapping[str, Any], goodput: float | None, *, force: bool = False) -> None:
        """Rewrite ``heartbeat.json`` (``heartbeat-<rank>.json``), once a second at most."""
        now = time.monotonic()
        if now - self._beaten < EVERY and not force:
            return
        self._beaten = now
        facts = {key: row.get(key) for key in ("step", "epoch", "loss", "tokens_per_second", "fetch_seconds")}
        facts |= {
            "time": time.time(),
            "name": self.name,
            "rank": self.rank,
            "steps": self.steps,
            "eta_seconds": self._eta(row),
            "goodput": None if goodput is None else round(goodput, 4),
            "rss": resident_memory(),
            "memory_allocated": row.get("memory_allocated"),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        path = self.folder / (f"heartbeat-{self.rank}.json" if self.rank else "heartbeat.json")
        part = path.with_suffix(".part")
        with contextlib.suppress(OSError):
            part.write_text(json.dumps(facts))
            os.replace(part, path)

    def _eta(self, row: Mapping[str, Any]) -> float | None:
        step = int(row.get("step") or 0)
        done = step - self._first_step
        return round((time.monotonic() - self._started) / done * (self.steps - step), 1) if done > 0 else None

    def _speak(self, row: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if self.rank or now - self._spoken < self._every or "loss" not in row:
            return
        self._spoken = now
        eta = self._eta(row)
        left = f", {duration(eta)} left" if eta is not None else ""
        line = f"step {row['step']} of {self.steps}, loss {row['loss']:.4f}, {quantity(row['tokens_per_second'])} tokens/s{left}"
        if self._terminal:
            share = int(20 * row["step"] / self.steps)
            sys.stderr.write(f"\r\x1b[2K[{'=' * share}{' ' * (20 - share)}] {line}")
            sys.stderr.flush()
        else:
            say(line)

    def close(self) -> None:
        """Close files."""
        if self.history:
            self.history.close()
        if self.board:
            self.board.close()
