"""Checks of the places that a study writes to: room, speed, semantics, quota, clock."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from isotone.environment import cache_folder
from isotone.layout import state_root
from isotone.planning.capacity import training_memory
from isotone.planning.checks import Verdict
from isotone.planning.shape import shape_of
from isotone.studies.study import Study

PROBE = 64 << 20  # bytes written to measure a disk


def _nearest(path: Path) -> Path:
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())


def disk_needed(study: Study, folder: Path) -> tuple[float, float]:
    """Bytes of results, and of checkpoints."""
    from isotone.planning.estimate import Estimate

    estimate = Estimate(study, folder, "h100", 1, 1500.0)
    checkpoints = estimate.checkpoints().disk
    return sum(stage.disk for stage in estimate.stages()) - checkpoints, checkpoints


def disk(study: Study, folder: Path) -> Verdict:
    """Free space against the estimate of results, data and checkpoints."""
    results, checkpoints = disk_needed(study, folder)
    places = {_nearest(folder): results}
    state = _nearest(state_root(folder))
    same = os.stat(state).st_dev == os.stat(_nearest(folder)).st_dev
    key = _nearest(folder) if same else state
    places[key] = places.get(key, 0.0) + checkpoints
    texts, colour = [], "green"
    for place, needed in places.items():
        free = shutil.disk_usage(place).free
        texts.append(f"{free / 1e9:.1f} GB free, about {needed / 1e9:.1f} GB needed")
        if free < needed:
            colour = "red"
    advice = ". Free some, set ISOTONE_STATE to a larger disk, or lower operation.keep." if colour == "red" else ""
    return colour, "; ".join(texts) + advice


def file_system(folder: Path) -> Verdict:
    """Writing speed, fsync and rename where checkpoints go."""
    place = _nearest(state_root(folder))
    if not os.access(place, os.W_OK):
        return "red", f"{place} cannot be written. Change its permissions, or set ISOTONE_STATE to another place."
    first, second = place / f".doctor-{os.getpid()}-a", place / f".doctor-{os.getpid()}-b"
    block = os.urandom(1 << 20)
    try:
        start = time.monotonic()
        with open(first, "wb") as file:
            for _ in range(PROBE >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        speed = PROBE / (time.monotonic() - start)
        second.write_bytes(b"old")
        os.replace(first, second)
        handle = os.open(place, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
        if first.exists() or second.stat().st_size != PROBE:
            return "red", f"renaming over a file does not work on {place}. Set ISOTONE_STATE to a POSIX file system."
    except OSError as error:
        return "red", f"{place}: {error}. Set ISOTONE_STATE to another place."
    finally:
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)
    return ("green" if speed > 50e6 else "yellow"), f"{speed / 1e6:.0f} MB/s with fsync; rename replaces"


def save_time(study: Study, folder: Path) -> Verdict:
    """A save at the measured speed against the grace between a signal and the kill."""
    shape = shape_of(study.model, folder / "base")
    size = training_memory(shape, study.training).state - 4 * shape.parameters
    text = file_system(folder)[1]
    speed = float(text.split(" MB/s")[0]) * 1e6 if " MB/s" in text else 100e6
    seconds = 2 * size / speed  # written, and read back
    words = (
        f"a save of {size / 1e9:.2f} GB takes about {seconds:.0f} s; operation.grace is {study.operation.grace:.0f} s"
    )
    if seconds > study.operation.grace:
        return (
            "yellow",
            f"{words}: a preempted run goes back to its last timed save. Ask for a longer grace, or save more often.",
        )
    return "green", words


def home_quota() -> Verdict:
    """Caches do not fill a home quota."""
    place = os.environ.get("HF_HOME") or (str(cache_folder()) if cache_folder() else "")
    home = Path.home()
    inside = not place or Path(place).absolute().is_relative_to(home)
    free = shutil.disk_usage(home).free
    quota = ""
    if program := shutil.which("quota"):
        try:
            answer = subprocess.run([program, "-w", "-p"], capture_output=True, text=True, timeout=10)
            quota = " quota: " + answer.stdout.strip().splitlines()[-1][:80] if answer.stdout.strip() else ""
        except (OSError, subprocess.TimeoutExpired):
            pass
    if inside and free < 20e9:
        return (
            "yellow",
            f"caches go below your home, which has {free / 1e9:.1f} GB free.{quota} Set HF_HOME (or SCRATCH, or PROJECT).",
        )
    return "green", (
        "caches go below your home" if inside else "caches go outside your home"
    ) + f"; {free / 1e9:.0f} GB free{quota}"


def clock(folder: Path) -> Verdict:
    """This machine's clock against the file system's, on which Snakemake's order of files rests."""
    place = _nearest(folder)
    probe = place / f".doctor-{os.getpid()}-clock"
    try:
        before = time.time()
        probe.write_bytes(b"")
        skew = probe.stat().st_mtime - before
    finally:
        probe.unlink(missing_ok=True)
    if abs(skew) > 5:
        return (
            "red",
            f"the file system's clock differs by {skew:.1f} s: Snakemake would take old files for new. Ask for NTP.",
        )
    return "green", f"differs from the file system's by {abs(skew):.2f} s"
