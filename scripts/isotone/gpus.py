"""NVIDIA GPUs as NVIDIA's own library sees them, without torch: who is there, and one reading of each."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isotone.records import Json


def visible_gpus(listed: str) -> list[str]:
    """The GPUs of a CUDA_VISIBLE_DEVICES: names up to the first that is none, as CUDA reads it."""
    names = [name.strip() for name in listed.split(",")]
    return list(itertools.takewhile(lambda name: name and not name.startswith(("-1", "No")), names))


def held_gpus(variables: Mapping[str, str] | None = None, files: Path = Path("/dev")) -> str:
    """Why this process should find a GPU (``CUDA_VISIBLE_DEVICES=0``), or "" if it holds none.

    Inside a Slurm job only Slurm's word counts, since /dev may show the GPUs of other jobs.
    """
    variables = os.environ if variables is None else variables
    if (listed := variables.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"CUDA_VISIBLE_DEVICES={listed}" if visible_gpus(listed) else ""
    if "SLURM_JOB_ID" in variables:
        names = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")
        return next((f"{name}={variables[name]}" for name in names if variables.get(name, "0") not in ("", "0")), "")
    return next((str(path) for path in sorted(files.glob("nvidia[0-9]*"))), "")


def granted(variables: Mapping[str, str] | None = None) -> int:
    """How many GPUs of this node were given to this job; 0 where nothing says so.

    Outside a job, a machine's GPUs belong to whatever runs there, so that only CUDA_VISIBLE_DEVICES counts; and a job
    without GPUs holds none of those that its node has.
    """
    variables = os.environ if variables is None else variables
    if (listed := variables.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len(visible_gpus(listed))
    number = variables.get("SLURM_GPUS_ON_NODE", "") if "SLURM_JOB_ID" in variables else ""
    return int(number) if number.isdecimal() else 0


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
