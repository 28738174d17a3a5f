"""NVIDIA GPUs as NVIDIA's own library sees them, without torch: who is there, and one reading of each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from isotone.records import Json


def granted(variables: Mapping[str, str] | None = None, library: Any = None) -> int:
    """How many GPUs of this node were given to this job; 0 where nothing says so, or none can be used.

    Outside a job, a machine's GPUs belong to whatever runs there, so that only CUDA_VISIBLE_DEVICES counts.
    """
    variables = os.environ if variables is None else variables
    if (visible := variables.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([name for name in visible.split(",") if name.strip() and not name.startswith(("-1", "No"))])
    return len(Gpus(library=library).handles) if "SLURM_JOB_ID" in variables else 0


class Gpus:
    """The GPUs of this machine, or some of them.

    Attributes:
        handles: the library's handle of each GPU, by number; empty if there is none that it can read.
        trouble: why there is none (no package, no driver, no GPU).
    """

    def __init__(self, devices: Sequence[str] | None = None, library: Any = None) -> None:
        """Find them.

        Args:
            devices: UUIDs, numbered in this order; None: all of this machine, as the library numbers them.
            library: pynvml, or something with its functions.
        """
        self.handles: dict[int, Any] = {}
        self.trouble = ""
        try:
            if library is None:
                import pynvml

                library = pynvml
            library.nvmlInit()
            self.library = library
            if devices is None:
                count = library.nvmlDeviceGetCount()
                self.handles = {index: library.nvmlDeviceGetHandleByIndex(index) for index in range(count)}
            else:
                self.handles = {index: library.nvmlDeviceGetHandleByUUID(name) for index, name in enumerate(devices)}
            self.trouble = "" if self.handles else "the driver counts none"
        except Exception as error:  # of the package or the driver, of any kind
            self.trouble = f"{type(error).__name__}: {error}"

    def _read_one(self, index: int) -> Json:
        library, handle = self.library, self.handles[index]
        memory = library.nvmlDeviceGetMemoryInfo(handle)
        return {
            "gpu": index,
            "utilisation": library.nvmlDeviceGetUtilizationRates(handle).gpu,
            "memory": memory.used,
            "total": memory.total,
            "temperature": library.nvmlDeviceGetTemperature(handle, 0),
            "power": library.nvmlDeviceGetPowerUsage(handle) / 1000,
        }

    def read(self) -> tuple[list[Json], str]:
        """A row per GPU that could be read (percent, bytes, degrees Celsius, watts), and what failed at the others."""
        rows, trouble = [], ""
        for index in self.handles:
            try:
                rows.append(self._read_one(index))
            except Exception as error:  # of the driver, of any kind; the next reading may be good
                trouble = f"GPU {index}: {type(error).__name__}: {error}"
        return rows, trouble

    def processes(self, index: int) -> list[int]:
        """Process ids that compute on a GPU; none where the driver does not tell (inside some containers)."""
        with contextlib.suppress(Exception):
            return [entry.pid for entry in self.library.nvmlDeviceGetComputeRunningProcesses(self.handles[index])]
        return []
