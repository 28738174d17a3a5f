"""Power and sample sizes, for documents and for seeds.

Sizes are the smallest whole number that reaches the power asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from isotone.statistics.means import critical

LARGEST = 10_000_000


def paired_power(effect: float, spread: float, n: int, *, alpha: float = 0.05) -> float:
    """Power of the two-sided paired t test.

    Args:
        effect: true mean difference, in the unit of ``spread``.
        spread: standard deviation of the differences.
        n: pairs (documents, or seeds).
    """
    if n < 2 or spread <= 0:
        return 0.0
    shift = abs(effect) / spread * math.sqrt(n)
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    return float(stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift))


def proportions_power(first: float, second: float, n: int, *, alpha: float = 0.05) -> float:
    """Power to tell two independent shares apart, ``n`` units each (Cohen's arcsine h).

    Source: Cohen 1988, "Statistical Power Analysis", ch. 6.
    """
    shift = abs(2 * math.asin(math.sqrt(first)) - 2 * math.asin(math.sqrt(second))) * math.sqrt(n / 2)
    critical = stats.norm.ppf(1 - alpha / 2)
    return float(stats.norm.sf(critical - shift) + stats.norm.cdf(-critical - shift))


def mcnemar_power(only_first: float, only_second: float, n: int, *, alpha: float = 0.05) -> float:
    """Power of the exact McNemar test, summed over all numbers of discordant pairs.

    Args:
        only_first, only_second: true shares of the two kinds of discordant pairs.

    Raises:
        ValueError: if the shares are negative or add up to more than 1.
    """
    discordant = only_first + only_second
    if min(only_first, only_second) < 0 or discordant > 1:
        raise ValueError("shares of discordant pairs are at least 0 and add up to at most 1")
    if discordant == 0:
        return 0.0
    pairs = np.arange(1, n + 1)
    # largest c with P(X <= c | m, 1/2) <= alpha / 2: two-sided p is twice the smaller tail
    critical = stats.binom.ppf(alpha / 2, pairs, 0.5).astype(int)
    critical = np.where(stats.binom.cdf(critical, pairs, 0.5) <= alpha / 2, critical, critical - 1)
    share = only_first / discordant
    reject = stats.binom.cdf(critical, pairs, share) + stats.binom.sf(pairs - critical - 1, pairs, share)
    return float((stats.binom.pmf(pairs, n, discordant) * reject).sum())


def two_way_power(
    effect: float,
    *,
    seeds: int,
    documents: int,
    seed_spread: float,
    document_spread: float,
    residual_spread: float = 0.0,
    alpha: float = 0.05,
) -> float:
    """Power of `means.two_way` for a mean difference over seeds crossed with documents.

    Spreads are standard deviations of the difference between seeds, between
    documents, and of what is left.
    """
    if seeds < 2 or documents < 2:
        return 0.0
    residual = residual_spread**2 / (seeds * documents)
    from_seeds, from_documents = seed_spread**2 / seeds + residual, document_spread**2 / documents
    variance = from_seeds + from_documents
    if variance <= 0:
        return 1.0 if effect else alpha
    freedom = variance**2 / (from_seeds**2 / (seeds - 1) + from_documents**2 / (documents - 1))
    shift = abs(effect) / math.sqrt(variance)
    bound = critical(alpha, seeds, documents, from_seeds, from_documents)
    return float(stats.nct.sf(bound, freedom, shift) + stats.nct.cdf(-bound, freedom, shift))


def smallest_size(power_of: Callable[[int], float], power: float, *, start: int = 2) -> int | None:
    """The smallest n with ``power_of(n) >= power``; None where none below ten million does.

    The power of a discrete test is not quite monotone in n; the answer is the
    first n from which doubling and bisection find the power reached.
    """
    high = start
    while power_of(high) < power:
        high *= 2
        if high > LARGEST:
            return None
    low = max(start - 1, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        if power_of(middle) >= power:
            high = middle
        else:
            low = middle
    return high
