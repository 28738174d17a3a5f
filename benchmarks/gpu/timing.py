"""Clocks of work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def settle(device: str) -> None:
    """Wait until the device has done all it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str, repeats: int = 1) -> float:
    """Seconds of one call, by the clock, the best of ``repeats``; what was queued before is waited for."""
    best = float("inf")
    for _ in range(repeats):
        settle(device)
        begun = time.perf_counter()
        work()
        settle(device)
        best = min(best, time.perf_counter() - begun)
    return best


PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}


def peak(device: str) -> tuple[str, float]:
    """The card's name, and its dense bf16 peak by the maker's data sheet (0: unknown)."""
    if device != "cuda":
        return "CPU", 0.0
    name = torch.cuda.get_device_name()
    return name, next((rate for part, rate in PEAKS.items() if part in name), 0.0)
