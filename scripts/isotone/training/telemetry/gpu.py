"""What the GPUs of a job do, once a second: ``gpu.jsonl``, and advice when they idle."""

from __future__ import annotations

import contextlib
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from isotone.gpus import Gpus
from isotone.records import Json
from isotone.training.observer import Observer
from isotone.training.telemetry.rotation import Rotated, older

IDLE = 30  # percent of utilisation, median over a minute
DEAD = 60  # readings in a row that failed: the monitor is called dead, and said to be
LIMIT = 16 << 20  # bytes of gpu.jsonl; a day of one GPU, some hours of eight


def recent_use(path: Path, rows: int = 60, *, since: float = 0.0) -> float | None:
    """Mean utilisation in percent over the last rows of a gpu.jsonl; None if there are none.

    Args:
        since: only rows from this time on (seconds since 1970).
    """
    seen: list[float] = []
    for place in (path, older(path)):
        try:
            with open(place, "rb") as file:
                file.seek(max(0, place.stat().st_size - 400 * rows))
                lines = file.read().decode("utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in reversed(lines):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                if float(row["time"]) >= since and len(seen) < rows:
                    seen.append(float(row["utilisation"]))
    return statistics.mean(seen) if seen else None


class Monitor(Observer):
    """A thread that reads NVIDIA's management library; does nothing where there is none.

    A reading that fails is a gap in gpu.jsonl, nothing more. A criterion on utilisation
    finds no fresh rows behind a long gap and says so.
    """

    def __init__(
        self,
        path: Path | None,
        tell: Callable[..., None],
        *,
        devices: Sequence[str] | None = None,
        library: Any = None,
        period: float = 1.0,
        alone: bool = False,
    ) -> None:
        """Start watching if there is a GPU.

        Args:
            path: where rows are appended; None: nowhere.
            tell: takes a kind and facts: advice when the GPUs have idled for a minute, an alarm when the readings
                fail for a minute.
            devices: UUIDs of the GPUs of this job; None: all of this machine.
            library: pynvml, or something with its functions.
            alone: no thread; the caller calls `look` when it wants a reading.
        """
        self.tell, self.period = tell, period
        self.gpus = Gpus(devices, library)
        self._file = Rotated(path, LIMIT) if path is not None else None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: list[float] = []
        self._failed = 0
        if self.gpus.handles and not alone:
            self._thread = threading.Thread(target=self._watch, name="gpu", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while not self._closed.wait(self.period):
            self.look()

    def look(self) -> list[Json]:
        """Read every GPU once, write the rows down, and judge them; the rows."""
        rows, trouble = self.gpus.read()
        rows = [{"time": time.time(), **row} for row in rows]
        if self._file is not None:
            self._file.append(*map(json.dumps, rows))
        self._failed = 0 if rows else self._failed + 1
        if self._failed == DEAD:
            self.tell("alarm", what="the GPU monitor reads nothing", readings=DEAD, error=trouble)
        if rows:
            self._judge(statistics.mean(row["utilisation"] for row in rows))
        return rows

    def _judge(self, utilisation: float) -> None:
        self._seen.append(utilisation)
        if len(self._seen) >= 60:
            typical, self._seen = statistics.median(self._seen), []
            if typical < IDLE:
                self.tell(
                    "advice",
                    utilisation=typical,
                    text="The GPUs idle: raise training.micro_batch_size or operation.prefetch.",
                )

    def close(self) -> None:
        """Stop."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=5)


def own_devices(count: int) -> list[str]:
    """UUIDs, as NVIDIA's library spells them, of the first ``count`` GPUs that this process may use.

    torch knows which GPUs a job may see; the library shows all that the machine has.
    """
    import torch

    return [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(count)]
