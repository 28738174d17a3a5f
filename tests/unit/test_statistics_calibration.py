"""Do p values and intervals keep their promises? Simulated worlds with a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from isotone.statistics import adjust, bca_columns, paired_t, sign_flip, two_way
from isotone.statistics.bootstrap import resample_counts
from scipy import stats

WORLDS = 2000


def uniform(p_values: list[float]) -> float:
    """p of a Kolmogorov-Smirnov test that the values are uniform."""
    return float(stats.kstest(p_values, "uniform").pvalue)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([7, seed])


def test_p_of_sign_flip_is_uniform_under_the_null() -> None:
    """Differences of one document are symmetric about zero, skewed between documents: what sign flips assume."""
    data = rng(1).normal(size=(WORLDS, 30)) * rng(2).exponential(size=(WORLDS, 30))
    # one set of sign patterns serves all worlds: each p is valid, and they are independent given the patterns
    assert uniform([sign_flip(row, draws=1999).p for row in data]) > 0.01


def test_p_of_paired_t_is_uniform_under_the_null() -> None:
    assert uniform([paired_t(row).p for row in rng(3).normal(size=(WORLDS, 12))]) > 0.01


@pytest.mark.parametrize(("seeds", "spreads"), [(3, (0.2, 0.2, 0.05)), (3, (0.3, 0.0, 0.2)), (5, (0.1, 0.3, 0.1))])
def test_p_of_the_claim_is_uniform_under_the_null(seeds: int, spreads: tuple[float, float, float]) -> None:
    generator = rng(4)
    p, covered = [], 0
    for _ in range(WORLDS):
        values = spreads[0] * generator.normal(size=(seeds, 1)) + spreads[1] * generator.normal(size=(1, 24))
        estimate, test = two_way(values + spreads[2] * generator.normal(size=(seeds, 24)))
        p.append(test.p)
        covered += estimate.low <= 0 <= estimate.high
    # never too short; too long by at most 3 points where both parts of the variance are alike
    assert 0.93 <= covered / WORLDS <= 0.98
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.07
    # the two-part t is close to uniform and errs towards caution
    assert stats.kstest(p, "uniform").statistic < 0.05


def test_seeds_times_documents_as_independent_units_would_lie() -> None:
    """The control: the same worlds, pooled, reject a true null far too often."""
    generator = rng(5)
    rejected = 0
    for _ in range(500):
        values = 0.2 * generator.normal(size=(3, 1)) + 0.2 * generator.normal(size=(3, 24))
        rejected += paired_t(values.ravel()).p < 0.05
    assert rejected / 500 > 0.3


@pytest.mark.parametrize("shape", ["normal", "exponential", "two-point"])
def test_bca_covers_the_truth(shape: str) -> None:
    """Coverage of 95 % intervals within [93, 97] % for 200 documents, also for skewed data."""
    generator = rng(6)
    worlds, n = WORLDS, 200
    draws = {
        "normal": lambda: generator.normal(1.0, 1.0, (n, worlds)),
        "exponential": lambda: generator.exponential(1.0, (n, worlds)),
        "two-point": lambda: generator.binomial(1, 0.3, (n, worlds)) / 0.3,
    }
    estimates = bca_columns(draws[shape](), resamples=1000)
    covered = np.mean([estimate.low <= 1.0 <= estimate.high for estimate in estimates])
    assert 0.93 <= covered <= 0.97


def test_percentile_bootstrap_of_five_documents_is_too_short() -> None:
    """The control: coverage is not high by construction."""
    generator = rng(7)
    data = generator.exponential(1.0, (5, WORLDS))
    means = resample_counts(5, 1000, 0) @ data / 5
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    assert np.mean((low <= 1) & (high >= 1)) < 0.90


@pytest.mark.parametrize("effect", [0.3, 0.5])
def test_stated_power_is_reached(effect: float) -> None:
    from isotone.statistics.planning import paired_power, smallest_size

    n = smallest_size(lambda size: paired_power(effect, 1.0, size), 0.8)
    assert n is not None
    data = rng(8).normal(effect, 1.0, (WORLDS, n))
    found = np.mean([paired_t(row).p < 0.05 for row in data])
    assert found == pytest.approx(paired_power(effect, 1.0, n), abs=0.03)
    assert np.mean([paired_t(row).p < 0.05 for row in data[:, : n // 2]]) < 0.65  # half the documents: less


def test_holm_bounds_any_false_claim() -> None:
    def step_down(row: np.ndarray) -> np.ndarray:
        order = np.argsort(row)
        made = np.empty(len(row))
        made[order] = np.minimum(1, np.maximum.accumulate(row[order] * np.arange(len(row), 0, -1)))
        return made

    p = rng(9).uniform(size=(WORLDS, 6))
    for row in p[:20]:
        assert adjust(row, "holm") == pytest.approx(step_down(row), rel=1e-12)
    false = np.mean([step_down(row).min() < 0.05 for row in p])
    assert false == pytest.approx(0.05, abs=0.015)
    assert np.mean(p.min(1) < 0.05) > 0.2  # unadjusted, one world in four makes a false claim


def test_benjamini_hochberg_bounds_the_share_of_false_claims() -> None:
    generator = rng(10)
    shares = []
    for _ in range(1000):
        z = generator.normal(size=40) + np.repeat([3.0, 0.0], [10, 30])
        found = np.array(adjust(2 * stats.norm.sf(np.abs(z)), "bh")) < 0.1
        shares.append(found[10:].sum() / max(1, found.sum()))
    assert np.mean(shares) < 0.1
    assert np.mean(shares) > 0.03  # and the test is not idle
