"""Tests and intervals for means: t, sign-flip permutation, seeds crossed with documents."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from isotone.statistics.bootstrap import Values
from isotone.statistics.estimate import Estimate, Test, finite, percent

EXACT_UP_TO = 14  # 2^14 sign patterns are cheaper than 10 000 draws are noisy


def paired_t(differences_N: Values) -> Test:
    """Student's t test that the mean difference is zero.

    Differences without any spread give p = 1 (all zero) or p = 0 (all equal, not zero).
    """
    differences = finite(differences_N, "paired t test", least=2)
    n = len(differences)
    if np.ptp(differences) == 0:
        moved = differences[0] != 0
        return Test(math.copysign(1e308, differences[0]) if moved else 0.0, 0.0 if moved else 1.0, n, "paired t")
    result = stats.ttest_1samp(differences, 0.0)
    return Test(float(result.statistic), float(result.pvalue), n, "paired t")


def welch_t(first_N: Values, second_N: Values) -> Test:
    """Welch's t test that two independent samples have one mean."""
    first, second = finite(first_N, "t test", least=2), finite(second_N, "t test", least=2)
    result = stats.ttest_ind(first, second, equal_var=False)
    return Test(float(result.statistic), float(result.pvalue), len(first) + len(second), "independent t (Welch)")


@functools.lru_cache(maxsize=4)
def _signs(n: int, draws: int, seed: int) -> np.ndarray:
    """Sign patterns_BN: all of them where they are few, else ``draws`` random ones."""
    if n <= EXACT_UP_TO:
        return np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    generator = np.random.default_rng([seed, n, draws])
    return generator.integers(0, 2, (draws, n), dtype=np.int8) * 2.0 - 1.0


def sign_flip_floor(n: int) -> float:
    """The smallest two-sided p that a sign-flip test on ``n`` units can give: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n))


def sign_flip(differences_N: Values, *, draws: int = 10_000, seed: int = 0) -> Test:
    """Sign-flip permutation test of paired differences, two-sided.

    Exact up to 14 units, else ``(1 + hits) / (1 + draws)``, which never gives zero.

    Source: Phipson & Smyth 2010 for the added one.
    """
    differences = finite(differences_N, "sign-flip test")
    n = len(differences)
    observed = abs(differences.sum())
    sums_B = np.abs(_signs(n, draws, seed) @ differences)
    hits = int((sums_B >= observed * (1 - 1e-12) - 1e-300).sum())
    exact = n <= EXACT_UP_TO
    p = hits / len(sums_B) if exact else (1 + hits) / (1 + draws)
    method = "sign-flip permutation, exact" if exact else f"sign-flip permutation, {draws} draws"
    return Test(float(differences.mean()), float(p), n, method)


@dataclass(frozen=True)
class Components:
    """Standard deviations of a two-way table: between seeds, between documents, and the rest."""

    seed: float
    document: float
    residual: float


def _mean_squares(values_SN: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of seeds, documents and residual, two-way table without replication."""
    seeds, n = values_SN.shape
    mean = values_SN.mean()
    row_S, column_N = values_SN.mean(1) - mean, values_SN.mean(0) - mean
    residual_SN = values_SN - mean - row_S[:, None] - column_N[None, :]
    ms_residual = float((residual_SN**2).sum() / ((seeds - 1) * (n - 1)))
    return float(n * (row_S**2).sum() / (seeds - 1)), float(seeds * (column_N**2).sum() / (n - 1)), ms_residual


def components(values_SN: np.ndarray) -> Components:
    """Variance components by the method of moments, as standard deviations (negative variances are zero).

    Args:
        values_SN: at least 2 seeds and 2 documents.
    """
    values = finite(values_SN, "variance components", least=2)
    seeds, n = values.shape
    ms_seeds, ms_documents, ms_residual = _mean_squares(values)
    between_seeds = max(0.0, (ms_seeds - ms_residual) / n)
    between_documents = max(0.0, (ms_documents - ms_residual) / seeds)
    return Components(math.sqrt(between_seeds), math.sqrt(between_documents), math.sqrt(ms_residual))


def two_way(values_SN: np.ndarray, *, confidence: float = 0.95) -> tuple[Estimate, Test]:
    """Mean of seeds crossed with documents: interval and test that hold for new seeds and new documents.

    Variance of the grand mean = (MS_seeds + MS_documents - MS_residual) / (S N), from the
    two-way table without replication; degrees of freedom by Satterthwaite. The
    variance is never taken below what either factor shows alone.

    Args:
        values_SN: one row per seed (at least 2), one column per document (at least 2).

    Source: Searle, Casella & McCulloch 1992, "Variance Components", ch. 4; Satterthwaite 1946.
    """
    values = finite(values_SN, "two-way analysis", least=2)
    seeds, n = values.shape
    if n < 2:
        raise ValueError("two-way analysis needs at least 2 documents")
    mean = values.mean()
    ms_seeds, ms_documents, ms_residual = _mean_squares(values)
    combined = ms_seeds + ms_documents - ms_residual
    method = f"mean of seeds x documents, two-way variance, t {percent(confidence)}"
    if combined >= max(ms_seeds, ms_documents):
        parts = ms_seeds**2 / (seeds - 1) + ms_documents**2 / (n - 1) + ms_residual**2 / ((seeds - 1) * (n - 1))
        variance, freedom = combined, combined**2 / parts if parts > 0 else math.inf
    else:
        variance, freedom = max((ms_seeds, seeds - 1.0), (ms_documents, n - 1.0))
    error = math.sqrt(variance / (seeds * n))
    if error <= 1e-14 * max(1.0, abs(mean)):
        exact = Estimate(float(mean), float(mean), float(mean), seeds, method)
        return exact, Test(0.0, 1.0 if mean == 0 else 0.0, seeds, "two-way t, no spread")
    margin = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    statistic = mean / error
    p = float(2 * stats.t.sf(abs(statistic), freedom))
    estimate = Estimate(float(mean), float(mean - margin), float(mean + margin), seeds, method)
    return estimate, Test(float(statistic), p, seeds, f"two-way t, {freedom:.1f} degrees of freedom")
