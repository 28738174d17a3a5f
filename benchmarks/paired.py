"""Comparing two ways of doing something on a machine that is not quiet.

The ways take turns, so that a disturbance hits them alike; the ratio of each turn counts,
not the times; turns are added until the median ratio is known well enough.
"""

from __future__ import annotations

import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def hardware() -> str:
    """This machine in a few words."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    return f"{os.cpu_count()} x {model or platform.machine()}, load {os.getloadavg()[0]:.1f}, {platform.system()}"


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def interval(ratios: list[float]) -> tuple[float, float]:
    """95 % interval of the median, by resampling."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(1000))
    return medians[25], medians[974]


def compare(
    ways: Mapping[str, Callable[[], object]], *, base: str, wanted: float = 0.01, turns: tuple[int, int] = (7, 60)
) -> dict[str, tuple[float, float, float]]:
    """Median of time(way) / time(base) with its interval, for each way.

    Args:
        wanted: half width of the interval, relative, that is good enough.
        turns: at least and at most so many.
    """
    for way in ways.values():
        way()  # once, not counted
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    while True:
        times = {}
        order = list(ways)
        random.shuffle(order)
        for name in order:
            times[name] = seconds(ways[name])
        for name in ways:
            ratios[name].append(times[name] / times[base])
        count = len(ratios[base])
        if count < turns[0]:
            continue
        wide = max(
            (interval(values)[1] - interval(values)[0]) / 2 / statistics.median(values) for values in ratios.values()
        )
        if wide < wanted or count >= turns[1]:
            break
    return {name: (statistics.median(values), *interval(values)) for name, values in ratios.items()}


def show(title: str, found: Mapping[str, tuple[float, float, float]], target: str) -> None:
    """Print ratios."""
    print(f"{title}   [{hardware()}]")
    for name, (middle, low, high) in found.items():
        if not math.isclose(middle, low) or not math.isclose(low, high):
            print(f"  {name:<28} {middle:.3f}  (95 % interval of the median {low:.3f} to {high:.3f})")
    print(f"  target: {target}")
