"""A curve of controls, read off at a model's own loss."""

from __future__ import annotations

import numpy as np
import pytest
from isotone.statistics.curve import OffCurve, interpolated


def world(generator: np.random.Generator, documents: int, losses: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Models whose true outcome is 5 minus twice their loss; documents differ in both."""
    shift_N = generator.normal(0, 0.3, documents)
    clean_MN = np.array(losses)[:, None] + shift_N + generator.normal(0, 0.1, (len(losses), documents))
    outcome_MN = 5 - 2 * np.array(losses)[:, None] + shift_N + generator.normal(0, 0.2, (len(losses), documents))
    return clean_MN, outcome_MN


def test_the_mean_is_the_straight_line_between_the_two_nearest_models() -> None:
    clean_MN, outcome_MN = world(np.random.default_rng(0), 30, [4.0, 3.0, 3.5, 5.0])
    target_N = np.full(30, 3.8)
    C, Y = clean_MN.mean(1), outcome_MN.mean(1)
    assert interpolated(clean_MN, outcome_MN, target_N).mean() == pytest.approx(
        np.interp(3.8, np.sort(C), Y[np.argsort(C)])
    )


def test_a_model_of_the_curve_reads_itself_off() -> None:
    clean_MN, outcome_MN = world(np.random.default_rng(1), 20, [3.0, 3.5, 4.0])
    for model in range(3):
        assert interpolated(clean_MN, outcome_MN, clean_MN[model]) == pytest.approx(outcome_MN[model])


def test_the_spread_over_documents_covers_the_losses_uncertainty() -> None:
    """95 % intervals of paired differences hold the true zero about 95 % of the time; with the plain weights they would not."""
    generator = np.random.default_rng(2)
    inside = plain = 0
    for _ in range(400):
        documents, losses = 80, [3.0, 3.6, 4.2]
        noise_N = generator.normal(0, 0.3, documents)
        clean_MN = np.array(losses)[:, None] + generator.normal(0, 0.5, (3, documents))
        outcome_MN = 5 - 2 * np.array(losses)[:, None] + noise_N + generator.normal(0, 0.05, (3, documents))
        target_N = 3.5 + generator.normal(0, 0.5, documents)  # an arm on the curve: its outcome is 5 - 2 * 3.5
        own_N = 5 - 2 * 3.5 + noise_N + generator.normal(0, 0.05, documents)
        difference_N = interpolated(clean_MN, outcome_MN, target_N) - own_N
        half = 1.99 * difference_N.std(ddof=1) / np.sqrt(documents)
        inside += abs(difference_N.mean()) < half
        share = (target_N.mean() - clean_MN[0].mean()) / (clean_MN[1] - clean_MN[0]).mean()
        naive_N = outcome_MN[0] + share * (outcome_MN[1] - outcome_MN[0]) - own_N
        plain += abs(difference_N.mean()) < 1.99 * naive_N.std(ddof=1) / np.sqrt(documents)
    assert inside / 400 > 0.9 and plain / 400 < 0.2


def test_nothing_is_extrapolated_and_two_models_are_no_curve() -> None:
    clean_MN, outcome_MN = world(np.random.default_rng(3), 20, [3.0, 3.5, 4.0])
    with pytest.raises(OffCurve, match="lies outside the curve"):
        interpolated(clean_MN, outcome_MN, np.full(20, 2.5))
    with pytest.raises(OffCurve, match="lies outside the curve"):
        interpolated(clean_MN, outcome_MN, np.full(20, 4.6))
    with pytest.raises(OffCurve, match="has 2 models and needs 3"):
        interpolated(clean_MN[:2], outcome_MN[:2], np.full(20, 3.2))
    with pytest.raises(ValueError, match="not a number"):
        interpolated(clean_MN * np.nan, outcome_MN, np.full(20, 3.2))
