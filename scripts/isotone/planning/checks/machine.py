"""Checks of one machine: packages, devices, memory, cores; and the list of all checks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

from isotone.environment import available_cpus, available_memory, total_memory
from isotone.errors import ConfigurationError
from isotone.planning.capacity import GIB, training_memory
from isotone.planning.checks import Check, Verdict, busy
from isotone.planning.checks import disk as checks_disk
from isotone.planning.checks.downloads import downloads
from isotone.planning.shape import shape_of
from isotone.studies.study import Study

LIBRARIES = 2 * GIB  # main memory of Python, torch and the readers of data
NEEDED = [
    "torch",
    "transformers",
    "datasets",
    "pandas",
    "scipy",
    "statsmodels",
    "safetensors",
    "snakemake",
    "tokenizers",
]


def python() -> Verdict:
    """The interpreter is one that the project supports."""
    here = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return (
            "red",
            f"{here}; Isotone needs 3.11 to 3.13. Make the environment again with one: make PYTHON=python3.11 env",
        )
    return "green", here


def packages(lock: Path = Path("requirements.lock")) -> Verdict:
    """What the lock names is installed, in that version."""
    missing, other = [], []
    wanted = dict.fromkeys(NEEDED, "")
    if lock.is_file():
        for line in lock.read_text(encoding="utf-8").splitlines():
            name, _, version = line.split("#")[0].split(";")[0].strip().partition("==")
            if name and version:
                wanted[name] = version
    for name, version in wanted.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if version and found.partition("+")[0] != version.partition("+")[0]:
            other.append(f"{name} {found} (lock: {version})")
    if missing:
        return "red", f"missing: {', '.join(missing[:6])}. Say: make env"
    if other:
        return "yellow", f"not as in the lock: {', '.join(other[:4])}. Digests are promised for the lock only: make env"
    return "green", f"{len(wanted)} packages as in the lock"


def gpus() -> list[dict[str, str]]:
    """What nvidia-smi says about each GPU; empty without one. Torch is not needed for that."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    keys = ["name", "memory.total", "driver_version", "compute_cap"]
    answer = subprocess.run(
        [program, f"--query-gpu={','.join(keys)}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    rows = [line.split(", ") for line in answer.stdout.splitlines() if answer.returncode == 0]
    return [dict(zip(keys, row, strict=False)) for row in rows]


def devices(study: Study) -> Verdict:
    """GPUs, their driver, and bf16 where the study wants it."""
    found = gpus()
    wants = study.training.precision == "bf16"
    if not found:
        if wants:
            return (
                "yellow",
                "no GPU here, and training.precision is bf16, which is slow on a CPU. Run it where there is a GPU.",
            )
        return "green", f"no GPU; {os.cpu_count()} CPUs"
    words = ", ".join(f"{gpu['name']} ({float(gpu['memory.total']) / 1024:.0f} GiB)" for gpu in found)
    old = [
        gpu["name"]
        for gpu in found
        if gpu.get("compute_cap", "9").split(".")[0].isdigit() and float(gpu["compute_cap"]) < 8
    ]
    if wants and old:
        return "red", f"{words}: {old[0]} has no bf16. Set training.precision: fp16 (or fp32)."
    return "green", f"{words}, driver {found[0]['driver_version']}"


def memory(study: Study, folder: Path) -> Verdict:
    """Weights, gradients and moments fit the device, all devices together, or main memory without one."""
    found, shape = gpus(), shape_of(study.model, folder / "base")
    room = int(float(found[0]["memory.total"]) * 2**20) if found else total_memory()
    where = found[0]["name"] if found else "main memory"
    needed, words = training_memory(shape, study.training), ""
    if needed.total > room and len(found) > 1:
        devices = 1 << (len(found).bit_length() - 1)  # a power of two, for training.reduction: exact
        needed = training_memory(shape, study.training, processes=devices, sharded=True)
        words = f"shared by {devices} devices, "
    words += f"training needs about {needed.total / GIB:.1f} GiB (state {needed.state / GIB:.1f}); {where} has {room / GIB:.1f}"
    if needed.state > room:
        return "red", f"{words}. Take a smaller model, a larger device, or more devices, which share the model."
    if needed.total > room:
        return "yellow", f"{words}. Lower training.micro_batch_size, or set training.gradient_checkpointing: true."
    return "green", words


def main_memory(study: Study, folder: Path) -> Verdict:
    """What the programs of a study hold in main memory, against what others leave of it."""
    shape = shape_of(study.model, folder / "base")
    if on_gpu := bool(gpus()):
        needed, what = 2 * 4 * shape.parameters + LIBRARIES, "the model twice in fp32, while it is read, and libraries"
    else:
        needed, what = training_memory(shape, study.training).total + LIBRARIES, "training without a GPU, and libraries"
    total, free = total_memory(), available_memory()
    words = f"about {needed / GIB:.1f} GiB needed ({what}); {free / GIB:.1f} of {total / GIB:.1f} available"
    if needed > total:  # without a GPU the check `memory` has judged it
        advice = "Ask for more memory (mem_mb in the profile), or take a smaller model."
        return "red" if on_gpu else "yellow", f"{words}. {advice}"
    if needed > free:
        return "yellow", f"{words}. End other programs, or run one job at a time (--jobs 1)."
    return "green", words


def cores(study: Study) -> Verdict:
    """Cores against the threads of the study's trainings; jobs beside each other need more."""
    asked = {f"arms.{arm}": study.training_of(arm).threads for arm in study.arms}
    if study.model.source == "scratch":
        asked["pretraining"] = study.base_job().training.threads
    where, most = max(asked.items(), key=lambda item: item[1])
    found = available_cpus()
    words = f"{found} for this process; training asks for {most} thread{'s' if most > 1 else ''}"
    if found < most:
        return (
            "yellow",
            f"{words} ({where}), which take turns and get slower. Lower its training.threads (the bits of a CPU run "
            f"change with it), or take a machine or job with {most} cores.",
        )
    return "green", words


def size_known(study: Study, folder: Path, check: Callable[[Study, Path], Verdict]) -> Verdict:
    """A check that needs the model's size; yellow until it is known."""
    try:
        return check(study, folder)
    except ConfigurationError as error:
        return "yellow", str(error)


def all_checks(study: Study, folder: Path) -> list[Check]:
    """Every check, by name, in the order in which they are printed."""
    return [
        ("python", python),
        ("packages", packages),
        ("devices", partial(devices, study)),
        ("busy GPUs", busy.gpus),
        ("memory", partial(size_known, study, folder, memory)),
        ("main memory", partial(size_known, study, folder, main_memory)),
        ("cores", partial(cores, study)),
        ("disk", partial(size_known, study, folder, checks_disk.disk)),
        ("file system", partial(checks_disk.file_system, folder)),
        ("saves", partial(size_known, study, folder, checks_disk.save_time)),
        ("home", checks_disk.home_quota),
        ("hub", partial(downloads, study)),
        ("clock", partial(checks_disk.clock, folder)),
    ]
