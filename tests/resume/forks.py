"""Starts of the training program by a fork server: the real program, without the seconds of its imports.

A start may carry a fault: a file operation at which the process kills itself or finds
the disk full. File operations are seen through Python's audit events, so nothing of
the program is replaced.
"""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import resource
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.resume.tiny import ROOT

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.resume.preload"])

OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}
M_ARENA_MAX = -8  # malloc.h
REMOVALS = {"os.remove", "os.rmdir"}


@dataclass(frozen=True)
class Fault:
    """What happens at the ``number``-th file operation on a path that contains one of ``where``.

    Attributes:
        kind: ``kill`` (SIGKILL to itself), ``full`` (ENOSPC from then on), ``full_once``, ``remove`` (the run's
            outputs vanish, as when Snakemake removes them); ``count`` and ``full_count`` only count.
    """

    kind: str
    number: int = 0
    where: tuple[str, ...] = ("checkpoints",)


def remove_outputs(place: Path) -> None:
    """What Snakemake does before a job starts and after it failed."""
    shutil.rmtree(place / "model", ignore_errors=True)
    for name in ("history.csv", "certificate.json", "train.json"):
        (place / name).unlink(missing_ok=True)


def _install(fault: Fault, log: Path) -> None:
    seen = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in OPERATIONS:
            return
        # of a tree that is being removed: names alone
        inside = "checkpoints" in fault.where and event in REMOVALS and arguments[1] != -1
        if not inside and not any(part in str(value) for part in fault.where for value in arguments[:2]):
            return
        if event == "open" and not (
            isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            return
        if fault.kind.startswith("full") and event not in ("open", "os.mkdir"):
            return  # these take room; renaming and removing do not
        seen[0] += 1
        if fault.kind in ("count", "full_count"):
            os.write(descriptor, f"{seen[0]} {event}\n".encode())
        elif fault.kind == "kill" and seen[0] == fault.number:
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "remove" and seen[0] == fault.number:
            remove_outputs(log.parent)
        elif (fault.kind == "full" and seen[0] >= fault.number) or (
            fault.kind == "full_once" and seen[0] == fault.number
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    sys.addaudithook(hook)


def _drop_capabilities() -> None:
    """Make root obey permissions."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def _slow_reads(seconds: float, stuck_at: int | None) -> None:
    """Training texts take their time; from a step on they do not come at all, as from a file system that is gone."""
    from isotone.training.reader import Reader

    real = Reader.read

    def slow_read(self: Any, step: int) -> Any:
        while stuck_at is not None and step >= stuck_at:
            time.sleep(60)
        time.sleep(seconds)
        return real(self, step)

    Reader.read = slow_read  # type: ignore[method-assign]


def _main(
    words: Sequence[str], variables: Mapping[str, str], log: str, fault: Fault | None, limits: Mapping[str, int]
) -> None:
    os.setsid()
    for name in ("SLURM_JOB_END_TIME", "SLURM_JOB_ID", "ISOTONE_STATE", "WORLD_SIZE", "RANK"):
        os.environ.pop(name, None)
    os.environ.update(variables)
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    if "powerless" in limits and os.geteuid() == 0:
        _drop_capabilities()
    if "extra_memory" in limits:
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)  # else every thread reserves 64 MiB of addresses
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + limits["extra_memory"],) * 2)
    if "slow_fsync" in limits:
        real = os.fsync

        def slow(descriptor: int) -> None:
            time.sleep(limits["slow_fsync"] / 1000)
            real(descriptor)

        os.fsync = slow  # a disk that takes its time
    if "slow_read" in limits or "stuck_at_step" in limits:
        _slow_reads(limits.get("slow_read", 0) / 1000, limits.get("stuck_at_step"))
    if fault:
        _install(fault, Path(log).with_suffix(".operations"))
    sys.argv = ["train.py", *words]
    runpy.run_path(str(ROOT / "scripts/train.py"), run_name="__main__")


class Start:
    """One running start of the program."""

    def __init__(
        self,
        words: Sequence[str],
        log: Path,
        *,
        variables: Mapping[str, str] | None = None,
        fault: Fault | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        """Start it."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        arguments = (list(words), dict(variables or {}), str(log), fault, dict(limits or {}))
        self.process = _CONTEXT.Process(target=_main, args=arguments)
        self.process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.process.pid or 0)

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.process.is_alive():
            os.kill(self.pid, number)

    def wait(self, seconds: float = 300) -> int:
        """Its exit code; negative after a signal.

        Raises:
            TimeoutError: if it does not end.
        """
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(self.log.read_text()[-2000:])
        return self.process.exitcode

    def text(self) -> str:
        """What it said."""
        return self.log.read_text() if self.log.exists() else ""


def wait_for(condition: Any, seconds: float = 300, pause: float = 0.002) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: if it does not come true.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition did not come true")
        time.sleep(pause)
