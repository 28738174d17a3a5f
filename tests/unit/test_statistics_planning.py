"""Power and sample sizes against statsmodels, published tables and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from isotone.statistics.planning import (
    mcnemar_power,
    paired_power,
    proportions_power,
    smallest_size,
    two_way_power,
)


@pytest.mark.parametrize(("d", "n"), [(0.2, 198), (0.5, 33), (0.8, 14), (0.3, 20)])
def test_paired_power_agrees_with_statsmodels(d: float, n: int) -> None:
    from statsmodels.stats.power import TTestPower

    assert paired_power(d, 1.0, n) == pytest.approx(TTestPower().power(d, n, 0.05), abs=1e-9)


@pytest.mark.parametrize(("d", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_sizes_of_paired_tests_as_published(d: float, n: int) -> None:
    """G*Power 3.1 (Faul et al. 2007), matched pairs, two-sided, alpha 0.05, power 0.80: 199, 34 and 15 pairs."""
    assert smallest_size(lambda size: paired_power(d, 1.0, size), 0.8) == n


@pytest.mark.parametrize(("a", "b", "n"), [(0.1, 0.2, 195), (0.5, 0.65, 170), (0.3, 0.3, 50)])
def test_proportions_agree_with_statsmodels(a: float, b: float, n: int) -> None:
    from statsmodels.stats.power import NormalIndPower
    from statsmodels.stats.proportion import proportion_effectsize

    oracle = NormalIndPower().power(proportion_effectsize(a, b), n, 0.05)
    assert proportions_power(a, b, n) == pytest.approx(oracle, abs=1e-9)


@pytest.mark.parametrize(("only_first", "only_second", "n"), [(0.25, 0.10, 60), (0.3, 0.05, 40), (0.1, 0.1, 80)])
def test_mcnemar_power_is_what_simulation_finds(only_first: float, only_second: float, n: int) -> None:
    from scipy.stats import binomtest

    generator = np.random.default_rng(0)
    draws = generator.multinomial(n, [only_first, only_second, 1 - only_first - only_second], size=20_000)
    pairs, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    reject = [one + two > 0 and binomtest(int(one), int(one + two)).pvalue <= 0.05 for one, two in pairs]
    assert mcnemar_power(only_first, only_second, n) == pytest.approx(np.average(reject, weights=counts), abs=0.012)


def test_mcnemar_keeps_its_level_and_refuses_nonsense() -> None:
    assert mcnemar_power(0.1, 0.1, 200) <= 0.05
    assert mcnemar_power(0.0, 0.0, 200) == 0
    for shares in [(0.7, 0.4), (-0.1, 0.2)]:
        with pytest.raises(ValueError, match="discordant"):
            mcnemar_power(*shares, 10)


@pytest.mark.parametrize("spreads", [(0.1, 0.3, 0.1), (0.05, 0.1, 0.3)])
def test_two_way_power_is_what_simulation_finds(spreads: tuple[float, float, float]) -> None:
    from isotone.statistics import two_way

    seed, document, rest = spreads
    generator = np.random.default_rng(1)
    seeds, documents, effect = 5, 40, 0.15
    found = 0
    for _ in range(1500):
        noise = seed * generator.normal(size=(seeds, 1)) + document * generator.normal(size=(1, documents))
        found += two_way(effect + noise + rest * generator.normal(size=(seeds, documents)))[1].p < 0.05
    planned = two_way_power(
        effect, seeds=seeds, documents=documents, seed_spread=seed, document_spread=document, residual_spread=rest
    )
    assert planned == pytest.approx(found / 1500, abs=0.05)


def test_documents_cannot_replace_seeds() -> None:
    """With a spread between seeds, no number of documents brings two seeds to power 0.8."""
    power = lambda n: two_way_power(0.1, seeds=2, documents=n, seed_spread=0.2, document_spread=0.1)  # noqa: E731
    assert smallest_size(power, 0.8) is None
    more = lambda n: two_way_power(0.1, seeds=n, documents=100, seed_spread=0.2, document_spread=0.1)  # noqa: E731
    needed = smallest_size(more, 0.8)
    assert needed is not None and more(needed) >= 0.8 > more(needed - 1)


def test_edges() -> None:
    assert paired_power(0.5, 1.0, 1) == 0 and paired_power(0.5, 0.0, 10) == 0
    assert two_way_power(0.1, seeds=1, documents=9, seed_spread=1, document_spread=1) == 0
    assert two_way_power(0.1, seeds=3, documents=9, seed_spread=0, document_spread=0) == 1
    assert smallest_size(lambda n: 1.0, 0.8) == 2
