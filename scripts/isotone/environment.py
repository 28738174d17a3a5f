"""The process's surroundings: caches, determinism, threads, and a record of versions and devices.

`prepare` must run before torch, transformers or datasets are imported, because
they read these variables once, at import.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
PACKAGES = ["torch", "transformers", "tokenizers", "datasets", "numpy", "pandas", "scipy", "safetensors", "gguf"]


def cache_folder() -> Path | None:
    """Where downloads go unless the user says otherwise: below $SCRATCH, else $PROJECT, so that no home quota fills up."""
    for name in ("SCRATCH", "PROJECT"):
        folder = Path(os.environ.get(name, ""))
        if folder.is_absolute() and folder.is_dir():
            return folder / "huggingface"
    return None


def until(step: str) -> str:
    """The command that runs this study as far as a step, to be typed as it stands."""
    files = os.environ.get("ISOTONE_CONFIGFILE", "config/config.yaml")
    return f"snakemake --profile profiles/local --until {step} --configfile {files}"


def cache_sentence() -> str:
    """Where downloads go, and what to set where that is the home folder."""
    if place := os.environ.get("HF_HOME") or cache_folder():
        return f"Downloads are kept in {place}."
    return (
        "Downloads are kept below your home folder (~/.cache/huggingface), since neither HF_HOME nor SCRATCH nor PROJECT "
        "names a folder. Where a quota is small, say: export HF_HOME=/a/large/disk"
    )


def variables(*, offline: bool = True) -> dict[str, str]:
    """The variables every program of a study should run with.

    Args:
        offline: whether hub access is cut off; only the fetching step needs it.
    """
    values = {
        "PYTHONHASHSEED": "0",  # takes effect in processes that start after this one
        "PYTHONUNBUFFERED": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with a fixed workspace
        "TOKENIZERS_PARALLELISM": "false",  # the project parallelises over processes
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    if offline:
        values |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if folder := cache_folder():
        values["HF_HOME"] = str(folder)
    return values


def prepare(*, offline: bool = True) -> None:
    """Set the variables that the user has not set already, and `keep_freed_memory`; call it before any heavy import."""
    for name, value in variables(offline=offline).items():
        os.environ.setdefault(name, value)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed instead of handing it back and faulting it in again, page by page.

    The values are where glibc's own adaptation ends once a program has freed 32 MiB at once, as
    training does. Scoring never does: with a vocabulary of 50,304 it lost a fifth of its time.

    Returns:
        whether it took effect; other C libraries have no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_THRESHOLD, 32 << 20) and mallopt(M_TRIM_THRESHOLD, 64 << 20))


def deterministic(seed: int, threads: int = 1) -> None:
    """Seed Python, numpy and torch, fix the thread count and refuse non-deterministic kernels.

    Args:
        threads: CPU threads of torch; gradients differ between 1 and 2 threads.
    """
    import random

    import numpy as np
    import torch

    from isotone.devices import choose_kernels

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    choose_kernels(True)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def devices() -> dict[str, Any]:
    """Processors and accelerators of this machine, for the record."""
    import torch

    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            gpus.append({"name": gpu.name, "memory": gpu.total_memory, "capability": [gpu.major, gpu.minor]})
    return {
        "machine": platform.machine(),
        "cpus": available_cpus(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpus": gpus,
        "bf16": bool(gpus) and torch.cuda.is_bf16_supported(),
    }


def available_cpus() -> int:
    """CPUs this process may use (an affinity mask or a job may allow fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory() -> int:
    """Bytes of main memory, the control group's limit included where there is one."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits)


def available_memory() -> int:
    """Bytes of main memory that a new program may take: free or only cached, within the control group's limit."""
    import psutil

    room, group = int(psutil.virtual_memory().available), Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        room = min(room, limit - used + int(cached))
    except (OSError, ValueError, KeyError):  # no limit, or none that is told
        pass
    return max(0, room)


def head_room(folder: Path) -> dict[str, int]:
    """Free disk at ``folder`` and total main memory, in bytes."""
    return {"disk_free": shutil.disk_usage(folder).free, "memory_total": total_memory()}


def say(message: str) -> None:
    """One line to stderr, where logs collect it."""
    print(message, file=sys.stderr, flush=True)
