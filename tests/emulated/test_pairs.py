"""Pairs on the emulated device: the CPU's numbers for training and scoring, and no tensor left behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.emulated.scene import in_fork
from tests.emulated.test_evaluation import both, fresh
from tests.unit.pair_zoo import EOS, START, random_pairs

PAIRS = random_pairs(4, shortest=5, longest=9)


def scores(model: Any, move: Any) -> list[np.ndarray]:
    """Losses of pairs, of a flip and of sums, slopes, and a comparison."""
    from isotone.evaluation.pairs import PairScorer, joined

    scorer = PairScorer(model, EOS)
    ids = torch.from_numpy(joined(*PAIRS[0]))[None]
    other = torch.from_numpy(joined(np.insert(PAIRS[0][0], 0, 5), PAIRS[0][1]))
    nll, slope = scorer.gradients(ids, torch.ones(ids.shape))
    found = scorer.compare(ids[0], other, 1.5)
    flips = scorer.flips(ids, nll, np.array([0, 0]), np.array([1, 2]), np.array([7, 9]))
    parts = [scorer.texts(ids), flips, nll, slope, found.kl, found.nll_after]
    return [scorer.pairs(PAIRS), *(part.detach().numpy() for part in parts)]


def trained(model: Any, move: Any) -> list[np.ndarray]:
    """Loss and gradient of a padded batch of pairs."""
    from isotone.config.training import Training
    from isotone.data.pairs import padded
    from isotone.training.engine import Engine

    device = next(model.parameters()).device
    batch = padded(PAIRS, START).to(device)
    engine = Engine(model, Training(global_batch=4, micro_batch_size=4, length=16), device, None)
    loss = engine.train(batch, seed=0, step=0, micro_batch=0)
    slopes = [value.grad.flatten().cpu() for value in model.parameters() if value.grad is not None]
    return [loss.cpu().numpy()[None], torch.cat(slopes).numpy() / engine.loss_scale]


@pytest.mark.parametrize("work", [scores, trained], ids=["scoring", "training"])
@pytest.mark.parametrize("family", ["t5", "umt5_gated"])
def test_pairs_agree_with_the_cpu(family: str, work: Any) -> None:
    def compare() -> list[tuple[np.ndarray, np.ndarray]]:
        fresh()
        expected, found, _ = both(family, work)
        return list(zip(expected, found, strict=True))

    for expected, found in in_fork(compare):
        assert expected.shape == found.shape and np.abs(expected).max() > 0
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())
