"""How many flips a document withstands: Kaplan-Meier, censored at the budget."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Survival:
    """Share of documents that still stand after each number of flips.

    ``median`` is None where more than half stand to the end.
    """

    flips: list[int]
    standing: list[float]
    low: list[float]
    high: list[float]
    median: int | None
    broken: int
    n: int


def kaplan_meier(
    flips_N: Sequence[int] | np.ndarray, broken_N: Sequence[bool] | np.ndarray, *, confidence: float = 0.95
) -> Survival:
    """Kaplan-Meier estimate of the flips needed, right-censored where a document never broke.

    Args:
        flips_N: flips at which each document broke, or the flips that it withstood.
        broken_N: whether it broke.

    Bounds are by the log-log transform of Greenwood's formula.

    Raises:
        ValueError: if the lengths differ or there are no documents.
    """
    flips, broken = np.asarray(flips_N, dtype=np.int64), np.asarray(broken_N, dtype=bool)
    if flips.shape != broken.shape or not len(flips):
        raise ValueError("survival needs one outcome per document")
    times = list(range(int(flips.max()) + 1))
    data = stats.CensoredData(uncensored=flips[broken].astype(float), right=flips[~broken].astype(float))
    curve = stats.ecdf(data).sf
    standing = np.clip(curve.evaluate(times), 0.0, 1.0)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # bounds at 0 % and 100 % are undefined: the estimate is used
        bounds = curve.confidence_interval(confidence_level=confidence, method="log-log")
        low, high = bounds.low.evaluate(times), bounds.high.evaluate(times)
    low = np.where(np.isfinite(low), low, standing)
    high = np.where(np.isfinite(high), high, standing)
    half = np.flatnonzero(standing <= 0.5)
    return Survival(
        times,
        standing.tolist(),
        low.tolist(),
        high.tolist(),
        int(half[0]) if half.size else None,
        int(broken.sum()),
        len(flips),
    )
