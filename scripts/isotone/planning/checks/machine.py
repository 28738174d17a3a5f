"""Checks of one machine: packages, devices, memory, hub; and the list of all checks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

from isotone.environment import total_memory
from isotone.errors import ConfigurationError
from isotone.planning.capacity import GIB, shape_of, training_memory
from isotone.planning.checks import Check, Verdict
from isotone.planning.checks import disk as checks_disk
from isotone.studies.study import Study

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


def hub(study: Study) -> Verdict:
    """The hub answers, or the cache is complete, for studies that need it."""
    if study.model.source != "hub" and not any(source.source == "hub" for source in study.data.candidates()):
        return "green", "not needed by this study"
    from isotone.data.readers.dataset import cached
    from isotone.data.readers.sources import wanted_rows
    from isotone.hub.network import cache_in_words, is_offline

    missing = []
    if study.model.source == "hub":
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(study.model.name, "config.json", revision=study.model.revision)
        if not isinstance(found, str):
            missing.append(study.model.name)
    if study.data.source == "hub" and not cached(study.data, None, wanted_rows(study.data.documents)).exists():
        missing.append(study.data.name)
    if not missing:
        return "green", f"everything is in the cache ({cache_in_words()})"
    if is_offline():
        return (
            "red",
            f"HF_HUB_OFFLINE is set and {', '.join(missing)} is not in the cache. Fetch first, online: snakemake --until fetch",
        )
    return _reachable(missing)


def _reachable(missing: list[str]) -> Verdict:
    import urllib.error
    import urllib.request

    from huggingface_hub.constants import ENDPOINT

    try:
        with urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=10):
            pass
    except urllib.error.HTTPError:
        pass  # an answer, whatever it says
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        return (
            "red",
            f"{', '.join(missing)} must be fetched, but {ENDPOINT} does not answer ({error}). Check the connection or proxy.",
        )
    return "green", f"{ENDPOINT} answers; {', '.join(missing)} will be fetched"


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
        ("memory", partial(size_known, study, folder, memory)),
        ("disk", partial(size_known, study, folder, checks_disk.disk)),
        ("file system", partial(checks_disk.file_system, folder)),
        ("saves", partial(size_known, study, folder, checks_disk.save_time)),
        ("home", checks_disk.home_quota),
        ("hub", partial(hub, study)),
        ("clock", partial(checks_disk.clock, folder)),
    ]
