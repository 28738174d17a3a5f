"""What every statistic returns: a number with its interval, or a test with its p."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A point estimate with its two-sided interval.

    ``low`` and ``high`` are NaN-free: where no interval exists (one observation) both are None.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    method: str


@dataclass(frozen=True)
class Test:
    """A test of the null value zero (or of equality), two-sided.

    Attributes:
        statistic: in the unit of ``method`` (t, count, mean difference).
        p: two-sided p value.
        n: independent units.
    """

    statistic: float
    p: float
    n: int
    method: str


def finite(values: Sequence[float] | np.ndarray, what: str, *, least: int = 1) -> np.ndarray:
    """``values`` as float64, checked.

    Raises:
        ValueError: if a value is NaN or infinite, or there are fewer than ``least``.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape[:1] == () or len(array) < least:
        raise ValueError(f"{what} needs at least {least} values and got {array.size}")
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(f"{what} has a value that is not a number at index {where}; nothing is averaged around it")
    return array


def percent(confidence: float) -> str:
    """``"95 %"`` for 0.95, without a trailing zero."""
    scaled = 100 * confidence
    return f"{round(scaled)} %" if math.isclose(scaled, round(scaled)) else f"{scaled:g} %"
