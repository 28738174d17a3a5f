"""Each statistic against an oracle that shares no code with it: statsmodels, other scipy routines, published examples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from isotone.statistics import (
    adjust,
    bca_columns,
    bca_mean,
    bca_ratio,
    cohens_d_paired,
    cohens_d_pooled,
    components,
    hierarchical,
    kaplan_meier,
    mcnemar,
    paired_t,
    sign_flip,
    sign_flip_floor,
    two_way,
    wilson,
)
from isotone.statistics.bootstrap import resample_counts
from isotone.statistics.estimate import percent
from scipy import stats

# Efron & Tibshirani 1993, "An Introduction to the Bootstrap", table 14.1: spatial test data, first column (A).
SPATIAL_A = np.array(
    [48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6, 0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41.0]
)
# Student 1908, Biometrika 6, section IX: additional hours of sleep under two drugs, ten patients.
SLEEP_1 = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
SLEEP_2 = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
# Fisher 1935, "The Design of Experiments", section 17: Darwin's maize, crossed minus self-fertilised, eighths of an inch.
DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48.0])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- bootstrap -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [SPATIAL_A, rng(1).exponential(size=200), rng(2).normal(size=40) ** 3])
def test_bca_agrees_with_scipy(values: np.ndarray) -> None:
    ours = bca_mean(values, resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, rng=3).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(values.mean(), rel=1e-14)
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_bca_is_efrons_formula_digit_by_digit() -> None:
    """Efron & Tibshirani 1993, eq. 14.9 to 14.15, with the standard library's normal distribution."""
    from statistics import NormalDist

    normal, values = NormalDist(), rng(21).exponential(size=12) ** 2
    boot = resample_counts(12, 4000, 5) @ values / 12
    z0 = normal.inv_cdf(float((boot < values.mean()).mean()))
    jack = np.array([np.delete(values, i).mean() for i in range(12)])
    a = float(((jack.mean() - jack) ** 3).sum() / (6 * ((jack.mean() - jack) ** 2).sum() ** 1.5))
    bounds = []
    for z in (normal.inv_cdf(0.025), normal.inv_cdf(0.975)):
        bounds.append(np.quantile(boot, normal.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))))
    ours = bca_mean(values, resamples=4000, seed=5)
    assert abs(z0) > 0.02 and a > 0.05
    assert (ours.low, ours.high) == pytest.approx(bounds, rel=1e-9)


def test_bca_corrects_what_the_percentile_interval_misses() -> None:
    """On skewed data both bounds of BCa lie above the percentile bounds; a control for the acceleration's sign."""
    values = rng(4).exponential(size=30) ** 2
    ours = bca_mean(values, resamples=20_000)
    plain = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=3).confidence_interval
    assert ours.low > plain.low and ours.high > plain.high


def test_bca_confidence_widens_the_interval() -> None:
    values = rng(5).normal(size=50)
    narrow, wide = (bca_mean(values, confidence=level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    assert "80 %" in narrow.method and "99 %" in wide.method


def test_columns_are_the_same_as_one_by_one() -> None:
    values_NC = rng(6).normal(size=(25, 3))
    together = bca_columns(values_NC, resamples=500)
    for column, estimate in zip(values_NC.T, together, strict=True):
        alone = bca_mean(column, resamples=500)
        assert (estimate.low, estimate.high) == pytest.approx((alone.low, alone.high), rel=1e-12)


def test_bootstrap_repeats_with_its_seed_and_not_with_another() -> None:
    values = rng(7).normal(size=20)
    assert bca_mean(values, resamples=300, seed=1) == bca_mean(values, resamples=300, seed=1)
    assert bca_mean(values, resamples=300, seed=1) != bca_mean(values, resamples=300, seed=2)


def test_resamples_draw_n_of_n() -> None:
    counts = resample_counts(7, 1000, 0)
    assert (counts.sum(1) == 7).all()
    assert counts.mean() == pytest.approx(1.0)
    assert counts.var() == pytest.approx(6 / 7, rel=0.05)  # binomial(7, 1/7)


def test_degenerate_data() -> None:
    same = bca_mean([0.3] * 10)
    assert same.low == same.high == same.value == pytest.approx(0.3)
    one = bca_mean([2.0])
    assert one.value == 2 and one.low is None and one.high is None
    assert bca_ratio([2.0], [4.0]).low is None


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf, 1.0]])
def test_a_value_that_is_no_number_is_an_error(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"values|not a number"):
        bca_mean(bad)


def test_ratio_of_sums_agrees_with_scipy() -> None:
    top, bottom = rng(8).gamma(2, size=60), rng(9).integers(50, 200, 60).astype(float)

    def ratio(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return a.sum(axis=axis) / b.sum(axis=axis)

    ours = bca_ratio(top, bottom, resamples=20_000)
    theirs = stats.bootstrap(
        (top, bottom), ratio, paired=True, method="BCa", n_resamples=20_000, rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(top.sum() / bottom.sum())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)
    assert ours.value != pytest.approx((top / bottom).mean(), rel=1e-4)  # the mean of ratios is another number


def test_ratio_refuses_what_it_cannot_divide() -> None:
    with pytest.raises(ValueError, match="positive denominator"):
        bca_ratio([1.0, 2.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="positive denominator"):
        bca_ratio([1.0, 2.0], [1.0])


def test_hierarchical_equals_a_loop_over_seeds_then_documents() -> None:
    values_SN = rng(10).normal(size=(4, 1)) + rng(11).normal(size=(1, 15)) + 0.1 * rng(12).normal(size=(4, 15))
    ours = hierarchical(values_SN, resamples=20_000)
    generator = rng(13)
    means = []
    for _ in range(20_000):
        seeds, documents = generator.integers(0, 4, 4), generator.integers(0, 15, 15)
        means.append(values_SN[np.ix_(seeds, documents)].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.03 * (high - low))
    assert ours.n == 4


def test_seeds_as_units_widen_the_interval() -> None:
    """Pooling seeds x documents as if all were independent is the mistake that this prevents."""
    values_SN = rng(14).normal(size=(5, 1)) + 0.1 * rng(15).normal(size=(5, 200))
    pooled = bca_mean(values_SN.ravel(), resamples=2000)
    assert hierarchical(values_SN, resamples=2000).high - hierarchical(values_SN, resamples=2000).low > 5 * (
        pooled.high - pooled.low
    )


# ---- means -----------------------------------------------------------------------------------------------------------


def test_paired_t_on_students_own_example() -> None:
    """Student's sleep data: t = 4.0621 with 9 degrees of freedom, p = 0.002833 (R, t.test(paired = TRUE))."""
    test = paired_t(SLEEP_2 - SLEEP_1)
    assert test.statistic == pytest.approx(4.0621, abs=5e-5)
    assert test.p == pytest.approx(0.002833, abs=5e-7)


def test_paired_t_on_darwins_maize() -> None:
    """Fisher 1935: t = 2.148 with 14 degrees of freedom, p just under 5 %."""
    test = paired_t(DARWIN)
    assert test.statistic == pytest.approx(2.148, abs=5e-4)
    assert test.p == pytest.approx(0.0497, abs=5e-5)


def test_paired_t_without_spread() -> None:
    assert paired_t([0.0, 0.0, 0.0]).p == 1
    assert paired_t([0.5, 0.5]).p == 0


def test_sign_flip_reproduces_fishers_count() -> None:
    """Fisher 1935, section 21: of 2^15 sign patterns 1726 give a sum as large as 314 (two-sided), p = 5.267 %."""
    sums = np.array(list(itertools.product((1, -1), repeat=15))) @ DARWIN
    assert int((np.abs(sums) >= 314).sum()) == 1726
    assert sign_flip(DARWIN, draws=100_000).p == pytest.approx(1726 / 2**15, abs=0.003)
    exact = sign_flip(DARWIN[:12])
    brute = np.array(list(itertools.product((1, -1), repeat=12))) @ DARWIN[:12]
    assert exact.p == (np.abs(brute) >= abs(DARWIN[:12].sum())).mean()
    assert "exact" in exact.method


def test_sign_flip_agrees_with_scipy() -> None:
    values = rng(16).normal(0.3, 1, size=11)
    oracle = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=10**6, alternative="two-sided"
    )
    assert sign_flip(values).p == pytest.approx(oracle.pvalue, rel=1e-12)


@pytest.mark.parametrize(("seeds", "floor"), [(1, 1.0), (3, 0.25), (5, 0.0625)])
def test_no_sign_flip_p_is_below_its_floor(seeds: int, floor: float) -> None:
    assert sign_flip_floor(seeds) == floor
    assert sign_flip(np.arange(1.0, seeds + 1)).p == floor


def test_sign_flip_of_many_is_never_zero() -> None:
    assert sign_flip(np.ones(100), draws=1000).p == 1 / 1001
    assert sign_flip(np.zeros(100), draws=1000).p == 1.0


def test_two_way_agrees_with_an_analysis_of_variance() -> None:
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    values_SN = 0.2 + rng(17).normal(size=(4, 1)) + rng(18).normal(size=(1, 12)) + 0.5 * rng(19).normal(size=(4, 12))
    frame = pd.DataFrame(
        [(s, d, values_SN[s, d]) for s in range(4) for d in range(12)], columns=["seed", "document", "y"]
    )
    table = anova_lm(ols("y ~ C(seed) + C(document)", frame).fit())
    ms_s, ms_d, ms_e = table["mean_sq"]
    parts = components(values_SN)
    assert parts.residual**2 == pytest.approx(ms_e)
    assert parts.seed**2 == pytest.approx((ms_s - ms_e) / 12)
    assert parts.document**2 == pytest.approx((ms_d - ms_e) / 4)
    estimate, test = two_way(values_SN)
    error = math.sqrt((ms_s + ms_d - ms_e) / 48)
    weights = np.array([ms_s, ms_d - ms_e])
    bound = weights @ stats.t.ppf(0.975, [3, 11]) / weights.sum()
    assert estimate.high - estimate.value == pytest.approx(bound * error)
    at_p = weights @ stats.t.isf(test.p / 2, [3, 11]) / weights.sum()
    assert at_p == pytest.approx(abs(values_SN.mean() / error), rel=1e-6)
    assert (test.p < 0.05) == (not estimate.low < 0 < estimate.high)


def test_two_way_is_a_t_test_over_seeds_where_documents_do_not_differ() -> None:
    seeds = np.array([0.1, 0.4, 0.2])
    values_SN = np.repeat(seeds[:, None], 8, 1)
    estimate, test = two_way(values_SN)
    assert test.p == pytest.approx(stats.ttest_1samp(seeds, 0).pvalue)
    assert estimate.n == 3


def test_two_way_without_spread_and_with_too_little() -> None:
    same, zero = two_way(np.full((3, 4), 0.2)), two_way(np.zeros((3, 4)))
    assert same[0].low == same[0].high == pytest.approx(0.2) and same[1].p == 0 and zero[1].p == 1
    with pytest.raises(ValueError, match="at least 2"):
        two_way(np.zeros((1, 5)))
    with pytest.raises(ValueError, match="2 documents"):
        two_way(np.zeros((3, 1)))


# ---- proportions and effects -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (81, 263), (15, 148), (1, 29)])
def test_wilson_agrees_with_statsmodels(k: int, n: int) -> None:
    from statsmodels.stats.proportion import proportion_confint

    ours = wilson(k, n)
    assert (ours.low, ours.high) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-12)


def test_wilson_on_newcombes_example() -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81 of 263 gives 0.2553 to 0.3662."""
    ours = wilson(81, 263)
    assert (round(ours.low, 4), round(ours.high, 4)) == (0.2553, 0.3662)


def test_wilson_refuses_impossible_counts() -> None:
    for k, n in [(3, 2), (-1, 2), (0, 0)]:
        with pytest.raises(ValueError, match="successes"):
            wilson(k, n)


@pytest.mark.parametrize("table", [(30, 12, 4, 10), (0, 0, 0, 7), (5, 1, 9, 5), (8, 0, 6, 2)])
def test_mcnemar_agrees_with_statsmodels(table: tuple[int, int, int, int]) -> None:
    from statsmodels.stats.contingency_tables import mcnemar as oracle

    both, one, two, neither = table
    first = np.repeat([True, True, False, False], table)
    second = np.repeat([True, False, True, False], table)
    found = mcnemar(first, second)
    assert found.table == [[both, one], [two, neither]]
    expected = oracle([[both, one], [two, neither]], exact=True).pvalue if one + two else 1.0
    assert found.test.p == pytest.approx(min(1.0, expected), rel=1e-12)


def test_mcnemar_needs_pairs() -> None:
    with pytest.raises(ValueError, match="pairs"):
        mcnemar([True], [True, False])
    with pytest.raises(ValueError, match="pairs"):
        mcnemar([], [])


def test_cohens_d() -> None:
    from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

    difference = SLEEP_2 - SLEEP_1
    assert cohens_d_paired(difference) == pytest.approx(paired_t(difference).statistic / math.sqrt(10))
    compared = CompareMeans(DescrStatsW(SLEEP_2), DescrStatsW(SLEEP_1))
    expected = (SLEEP_2.mean() - SLEEP_1.mean()) / math.sqrt(compared.std_meandiff_pooledvar**2 / (2 / 10))
    assert cohens_d_pooled(SLEEP_2, SLEEP_1) == pytest.approx(expected)
    assert cohens_d_pooled(SLEEP_2, SLEEP_1) == pytest.approx(0.8322, abs=5e-5)
    assert cohens_d_paired([1.0, 1.0]) is None and cohens_d_pooled([1.0, 1.0], [2.0, 2.0]) is None


# ---- multiplicity ----------------------------------------------------------------------------------------------------

# Benjamini & Hochberg 1995, section 3.2: fifteen p values; four are rejected at q = 0.05, three by Bonferroni.
FIFTEEN = [
    0.0001,
    0.0004,
    0.0019,
    0.0095,
    0.0201,
    0.0278,
    0.0298,
    0.0344,
    0.0459,
    0.3240,
    0.4262,
    0.5719,
    0.6528,
    0.7590,
    1.0,
]


def test_benjamini_hochbergs_own_example() -> None:
    assert sum(p <= 0.05 for p in adjust(FIFTEEN, "bh")) == 4
    assert sum(p <= 0.05 for p in adjust(FIFTEEN, "bonferroni")) == 3
    assert sum(p <= 0.05 for p in FIFTEEN) == 9


@pytest.mark.parametrize(
    ("ours", "theirs"), [("holm", "holm"), ("bh", "fdr_bh"), ("by", "fdr_by"), ("bonferroni", "bonferroni")]
)
def test_adjustments_agree_with_statsmodels(ours: str, theirs: str) -> None:
    from statsmodels.stats.multitest import multipletests

    shuffled = rng(20).permutation([*FIFTEEN, 0.0095])
    assert adjust(shuffled, ours) == pytest.approx(multipletests(shuffled, method=theirs)[1], abs=1e-14)


def test_adjust_refuses_nonsense() -> None:
    assert adjust([], "holm") == []
    with pytest.raises(ValueError, match="unknown adjustment"):
        adjust([0.1], "hommel")
    with pytest.raises(ValueError, match="between 0 and 1"):
        adjust([1.2], "holm")


# ---- survival --------------------------------------------------------------------------------------------------------

# Freireich et al. 1963, as in Cox & Oakes 1984, table 1.1: weeks in remission under 6-mercaptopurine, + censored.
REMISSION = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
RELAPSED = [True] * 9 + [False] * 12


def test_kaplan_meier_on_the_remission_data() -> None:
    """Published: S(6) = 0.857, S(10) = 0.753, S(16) = 0.627, S(23) = 0.448; median 23 weeks."""
    curve = kaplan_meier(REMISSION, RELAPSED)
    for week, share in [
        (5, 1.0),
        (6, 0.857),
        (7, 0.807),
        (10, 0.753),
        (13, 0.690),
        (16, 0.627),
        (22, 0.538),
        (23, 0.448),
    ]:
        assert curve.standing[week] == pytest.approx(share, abs=6e-4)
    assert curve.median == 23 and curve.broken == 9 and curve.n == 21


def test_the_median_is_the_first_time_at_which_at_most_half_stand() -> None:
    """Klein & Moeschberger 2003, section 4.5: the smallest t with S(t) <= 1/2 (statsmodels takes S(t) < 1/2)."""
    assert kaplan_meier(np.array([1, 2, 3, 4]), np.ones(4, bool)).median == 2
    assert kaplan_meier(np.array([1, 4, 4, 4]), np.array([True, False, False, False])).median is None


def test_kaplan_meier_agrees_with_statsmodels() -> None:
    from statsmodels.duration.survfunc import SurvfuncRight

    oracle = SurvfuncRight(REMISSION, RELAPSED)
    curve = kaplan_meier(REMISSION, RELAPSED)
    for time, share, error in zip(oracle.surv_times, oracle.surv_prob, oracle.surv_prob_se, strict=True):
        assert curve.standing[int(time)] == pytest.approx(share)
        reach = stats.norm.ppf(0.975) * error / share / abs(math.log(share))
        assert curve.low[int(time)] == pytest.approx(share ** math.exp(reach), rel=1e-9)
        assert curve.high[int(time)] == pytest.approx(share ** math.exp(-reach), rel=1e-9)


def test_kaplan_meier_where_nothing_or_everything_breaks() -> None:
    whole = kaplan_meier([5, 5, 5], [False] * 3)
    assert whole.standing == [1.0] * 6 and whole.median is None
    gone = kaplan_meier([1, 2, 2], [True] * 3)
    assert gone.standing[-1] == 0 and gone.median == 2
    with pytest.raises(ValueError, match="per document"):
        kaplan_meier([1], [])


def test_percent() -> None:
    assert [percent(level) for level in (0.95, 0.9, 0.999)] == ["95 %", "90 %", "99.9 %"]
