"""Whether the trainer of a state folder lives, and how it ended if it does not; no torch.

A trainer that is killed outright leaves no word. So each start leaves its name at its
beginning (``start.json``), and whoever asks looks for that process on its own machine,
or from another one at the lease that it would renew.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from isotone.errors import DONE, UNFINISHED, InputOutputError
from isotone.records import Json, read_json, write_json
from isotone.training.supervision.outcome import read_outcome

RUNNING, PAUSED, FAILED, KILLED, ENDED, UNKNOWN = "running", "paused", "failed", "killed", "ended", "unknown"
SAME = 1.0  # seconds by which two readings of when a process began may differ
PATIENCE = 2.0  # times the lease, without a sign of life; clocks of two machines differ


@dataclass(frozen=True)
class Liveness:
    """What is known of the newest start in a state folder.

    Attributes:
        state: ``running``; ``paused`` (exit 75: run again); ``failed`` (it said why); ``killed`` (it ended without
            a word); ``ended`` (the run is done); ``unknown`` (nothing ever started here).
        note: why, in a line; empty while all is well.
        log: of that start; None if it left none.
    """

    state: str
    note: str = ""
    log: Path | None = None


def declare_start(folder: Path, name: str, *, lease: float, log: Path | None) -> None:
    """Leave word that this process trains here from now on.

    Args:
        name: of the run.
        lease: seconds without a sign of life after which another may take over.
        log: of this start.
    """
    found = {
        "name": name,
        "time": time.time(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "began": psutil.Process().create_time(),
        "namespace": _namespace(),
        "lease": lease,
        "log": str(log) if log else None,
    }
    with contextlib.suppress(OSError):
        write_json(Path(folder) / "start.json", found)


def judge(folder: Path, now: float | None = None) -> Liveness:
    """Judge the newest start in a state folder.

    Args:
        now: seconds since 1970; None: the present.
    """
    folder, now = Path(folder), time.time() if now is None else now
    start, outcome = _read(folder / "start.json"), read_outcome(folder)
    log = Path(start["log"]) if start and start.get("log") else None
    if refused := _read(folder / "refused.json"):
        return Liveness(FAILED, _first(refused.get("message")), log)
    if outcome and not (start and float(outcome.get("time") or 0) < float(start["time"])):
        code = outcome.get("code")
        if code == DONE:
            return Liveness(ENDED, "", log)
        paused = code == UNFINISHED
        message = outcome.get("message")
        return Liveness(PAUSED if paused else FAILED, _first(message) if paused else _last(message), log)
    if start is None:
        return Liveness(UNKNOWN)
    lost = _lost(folder, start, now)
    return Liveness(KILLED, lost, log) if lost else Liveness(RUNNING, "", log)


def _lost(folder: Path, start: Json, now: float) -> str:
    """How a process that left no outcome is known to be gone; empty if it is not."""
    pid, host = int(start["pid"]), str(start["host"])
    if host == socket.gethostname() and start.get("namespace") == _namespace():
        if _lives(pid, float(start["began"])):
            return ""
        return f"process {pid} on {host} is gone and left no word: it was killed, or ran out of memory"
    try:
        silent = now - (folder / "lock").stat().st_mtime
    except OSError:
        return f"process {pid} on {host} let go of its lease and left no word"
    if silent <= PATIENCE * float(start["lease"]):
        return ""
    return f"no sign of life of process {pid} on {host} for {silent:.0f} s: it was killed, or its machine went down"


def _lives(pid: int, began: float) -> bool:
    """Whether the process of that number is still the one that began then."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - began) < SAME and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _namespace() -> str:
    """What tells the process numbers of this container from those of its neighbour."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read(path: Path) -> Json | None:
    with contextlib.suppress(InputOutputError, OSError):
        return read_json(path)
    return None


def _first(text: object) -> str:
    return (str(text or "").strip().splitlines() or [""])[0]


def _last(text: object) -> str:
    return (str(text or "").strip().splitlines() or [""])[-1]
