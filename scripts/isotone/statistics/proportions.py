"""Shares, paired yes/no outcomes and effect sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from isotone.statistics.bootstrap import Values
from isotone.statistics.estimate import Estimate, Test, finite, percent


@dataclass(frozen=True)
class McNemar:
    """The 2x2 table of paired outcomes and its exact test.

    ``table`` is [[both, only the first], [only the second, neither]].
    """

    table: list[list[int]]
    test: Test


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Estimate:
    """Wilson's score interval of a share.

    Raises:
        ValueError: if n is 0 or the successes do not fit.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a share needs 0 <= successes <= n and n >= 1; got {successes} of {n}")
    interval = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high), n, f"share, Wilson {percent(confidence)}")


def mcnemar(first_N: Values, second_N: Values) -> McNemar:
    """Exact McNemar test that two paired yes/no outcomes have one rate.

    Raises:
        ValueError: if the lengths differ or there are no pairs.
    """
    first, second = np.asarray(first_N, dtype=bool), np.asarray(second_N, dtype=bool)
    if first.shape != second.shape or not len(first):
        raise ValueError("McNemar's test needs pairs of outcomes")
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    discordant = only_first + only_second
    p = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    table = [[int((first & second).sum()), only_first], [only_second, int((~first & ~second).sum())]]
    return McNemar(table, Test(float(only_first - only_second), p, len(first), "exact McNemar"))


def cohens_d_paired(differences_N: Values) -> float | None:
    """Mean difference over the standard deviation of the differences; None without spread."""
    differences = finite(differences_N, "Cohen's d", least=2)
    spread = float(differences.std(ddof=1))
    return float(differences.mean()) / spread if spread > 0 else None


def cohens_d_pooled(first_N: Values, second_N: Values) -> float | None:
    """Difference of means (first - second) over the pooled standard deviation; None without spread."""
    first, second = finite(first_N, "Cohen's d", least=2), finite(second_N, "Cohen's d", least=2)
    squares = first.var(ddof=1) * (len(first) - 1) + second.var(ddof=1) * (len(second) - 1)
    spread = float(np.sqrt(squares / (len(first) + len(second) - 2)))
    return float(first.mean() - second.mean()) / spread if spread > 0 else None
