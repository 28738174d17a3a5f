"""Reading what runs and jobs leave: JSON, logs, timings."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from isotone.training.telemetry.reading import number

BARS = "▁▂▃▄▅▆▇█"
TROUBLE = re.compile(
    r"error|exception|killed|refused|diverged|cannot|no space|out of memory|does not|is not", re.IGNORECASE
)


def sparkline(values: Sequence[float | None], width: int = 16) -> str:
    """A line of ``width`` small bars; each is the mean of its share of the values."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    count = min(width, len(known))
    edges = [round(index * len(known) / count) for index in range(count + 1)]
    means = [sum(known[low:high]) / (high - low) for low, high in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def tail(path: Path, size: int = 1 << 16) -> list[str]:
    """The last lines of a file that may be large; empty if it is missing."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def last_error(log: Path) -> str:
    """The line of a log that best says what went wrong; empty if none looks like it."""
    lines = [line.strip() for line in tail(log) if line.strip()]
    for line in reversed(lines[-40:]):
        if TROUBLE.search(line):
            return line
    return ""


def folder_size(folder: Path) -> int:
    """Bytes that removing a folder would free: files with a hard link elsewhere, or gone meanwhile, count as nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                file = os.lstat(os.path.join(parent, name))
            except OSError:
                continue
            total += file.st_size if file.st_nlink == 1 else 0
    return total


def benchmark_seconds(folder: Path) -> float:
    """Wall seconds that Snakemake measured in the files below ``timings/`` (column ``s``)."""
    total = 0.0
    for path in folder.rglob("*.tsv"):
        lines = tail(path)
        for line in lines[1:]:
            total += number(line.split("\t")[0]) or 0.0
    return total
