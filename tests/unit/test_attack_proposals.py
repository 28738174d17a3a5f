"""Where flips come from: first-order gains, credit for saturated losses, chance."""

from __future__ import annotations

import attack_zoo as az
import models_zoo as zoo
import numpy as np
import pytest
import torch
from isotone.attacks.gradient import Ranking
from isotone.attacks.proposals import random_flips, rank_flips, with_saturation
from isotone.attacks.vocabulary import Vocabulary


def test_predicted_gain_is_the_slope_of_the_loss():
    """Moving an embedding a little towards another token's raises the loss as predicted."""
    objective = az.objective()
    ids = zoo.random_ids(1, 12).numpy()
    ranking = Ranking(objective, az.vocabulary(az.documents(2)))
    _, grad = objective.slopes(ids, np.ones((1, 12)))
    places = np.array([3, 6, 9])
    choice, gain = ranking.best(ids[0], grad[0], places, 4)
    step = 1e-2
    for row, place in enumerate(places):
        token = int(ranking.vocabulary.allowed[choice[row, 0]])
        weight = objective.scorer.embedding.weight.data
        saved, size = weight[0].clone(), []
        for sign in (1, -1):  # token 0 is the prefix and stands nowhere in the text: borrow its row
            moved = ids.copy()
            moved[0, place] = 319
            kept = weight[319].clone()
            weight[319] = weight[ids[0, place]] + sign * step * (weight[token] - weight[ids[0, place]])
            nll = objective.scores(moved)[0]
            weight[319] = kept
            size.append(nll[np.arange(12) != place].sum())
        assert torch.equal(weight[0], saved)
        assert (size[0] - size[1]) / (2 * step) == pytest.approx(gain[row, 0], rel=2e-3)


def test_rank_flips_never_proposes_the_standing_token_and_sorts():
    grad = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    allowed = torch.tensor([[3.0, 1.0], [1.0, -2.0], [0.5, 0.0]])
    choice, gain = rank_flips(grad, allowed, torch.zeros(2, 2), torch.tensor([0, -1]), keep=2)
    assert choice.tolist() == [[1, 2], [1, 2]]
    torch.testing.assert_close(gain, torch.tensor([[1.0, 0.5], [2.0, 0.0]]))
    _, gain = rank_flips(grad, allowed, torch.tensor([[2.0, 7.0], [7.0, 1.0]]), torch.tensor([0, -1]), keep=2)
    torch.testing.assert_close(gain, torch.tensor([[-1.0, -1.5], [3.0, 1.0]]))  # what the standing token gives is lost


def test_saturation_prefers_what_the_model_is_sure_of():
    gain = np.zeros((2, 1))
    nll, surprise = np.array([0.0, 1.0, 0.1, 5.0, 1.0]), np.full(5, 5.0)
    found = with_saturation(gain, np.array([1, 2]), nll, nll, np.ones(5, bool), surprise)
    assert found[0, 0] == pytest.approx(4.9) and found[1, 0] == pytest.approx(0.0)
    given_up = with_saturation(
        gain, np.array([1, 2]), nll, nll - np.array([0, 3.0, 0, 0, 0]), np.ones(5, bool), surprise
    )
    assert given_up[0, 0] == pytest.approx(1.9)  # the flipped token's own rise no longer counts


def test_first_order_gains_are_shrunk_to_half_the_spread_of_the_credit():
    gain, nll, surprise = np.array([[4.0, 1.0], [-4.0, -6.0]]), np.array([0.0, 0.0, 2.0, 0.0]), np.full(4, 5.0)
    found = with_saturation(gain, np.array([0, 1]), nll, nll, np.ones(4, bool), surprise)
    # Credits are 5 and 3, of spread 1; the spread of the best gains is 4, so gains count an eighth.
    np.testing.assert_allclose(found, [[5.5, 5.125], [2.5, 2.25]])


def test_the_surprise_of_a_token_is_that_of_add_one_counts():
    surprise = Vocabulary(np.arange(3), ["a", "b", "c"], np.array([6, 0, 1])).unigram_nll()
    np.testing.assert_allclose(np.exp(-surprise), [0.7, 0.1, 0.2])


def test_chance_never_draws_the_token_that_stands_there():
    flips = random_flips(np.random.default_rng(0), np.full(5, 7), np.array([1, 2, 3]), np.array([7, 8]), 40)
    assert {flip.token for flip in flips} == {8} and {flip.position for flip in flips} == {1, 2, 3}
