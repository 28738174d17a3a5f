"""What the GPUs do, once a second: ``gpu.jsonl``, and advice when they idle."""

from __future__ import annotations

import contextlib
import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

IDLE = 30  # percent of utilisation, median over a minute


def recent_use(path: Path, rows: int = 60) -> float | None:
    """Mean utilisation in percent over the last rows of a gpu.jsonl; None if there are none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 400 * rows))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    seen = []
    for line in lines[-rows:]:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            seen.append(float(json.loads(line)["utilisation"]))
    return statistics.mean(seen) if seen else None


class Monitor:
    """A thread that reads NVIDIA's management library; does nothing where there is none."""

    def __init__(self, path: Path, advise: Callable[..., None], library: Any = None, period: float = 1.0) -> None:
        """Start watching if there is a GPU.

        Args:
            advise: takes a kind and facts when the GPUs have idled for a minute.
            library: pynvml, or something with its functions.
        """
        self.path, self.advise, self.period = Path(path), advise, period
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: list[float] = []
        self._library = library
        with contextlib.suppress(Exception):  # no package, no driver, no GPU: nothing to watch
            if self._library is None:
                import pynvml

                self._library = pynvml
            self._library.nvmlInit()
            count = self._library.nvmlDeviceGetCount()
            self._handles = [self._library.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            self._thread = threading.Thread(target=self._watch, name="gpu", daemon=True)
            self._thread.start()

    def _read(self, index: int) -> dict[str, Any]:
        library, handle = self._library, self._handles[index]
        memory = library.nvmlDeviceGetMemoryInfo(handle)
        return {
            "gpu": index,
            "utilisation": library.nvmlDeviceGetUtilizationRates(handle).gpu,
            "memory": memory.used,
            "total": memory.total,
            "temperature": library.nvmlDeviceGetTemperature(handle, 0),
            "power": library.nvmlDeviceGetPowerUsage(handle) / 1000,
        }

    def _watch(self) -> None:
        with contextlib.suppress(Exception), open(self.path, "a", encoding="utf-8") as file:
            while not self._closed.wait(self.period):
                rows = [self._read(index) for index in range(len(self._handles))]
                for row in rows:
                    file.write(json.dumps({"time": time.time(), **row}) + "\n")
                file.flush()
                self._judge(statistics.mean(row["utilisation"] for row in rows))

    def _judge(self, utilisation: float) -> None:
        self._seen.append(utilisation)
        if len(self._seen) >= 60:
            typical, self._seen = statistics.median(self._seen), []
            if typical < IDLE:
                self.advise(
                    "advice",
                    utilisation=typical,
                    text="The GPU idles: raise training.micro_batch_size or operation.prefetch.",
                )

    def close(self) -> None:
        """Stop."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
