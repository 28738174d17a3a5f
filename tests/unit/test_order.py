"""The order of samples: golden vectors, a permutation of every size, seeks in microseconds."""

from __future__ import annotations

import time

import numpy as np
import pytest
from isotone.data.sample_order import Permutation, samples

GOLDEN = {
    (10, 42, 0): [7, 9, 4, 3, 8, 1, 5, 0],
    (1000, 42, 0): [684, 180, 478, 628, 955, 381, 439, 384],
    (1000, 42, 1): [436, 51, 965, 208, 568, 508, 55, 33],
    (1000, 1337, 0): [412, 825, 214, 273, 334, 590, 451, 605],
    (2_000_000_011, 42, 3): [851969677, 1672263805, 134295374, 1854784027, 87855265, 106292652, 579837016, 1820794176],
}


@pytest.mark.parametrize("key", GOLDEN)
def test_golden_vectors(key: tuple[int, int, int]) -> None:
    assert Permutation(*key)(np.arange(8)).tolist() == GOLDEN[key]


@pytest.mark.parametrize("count", [*range(1, 40), 255, 256, 257, 4095, 4096, 4097])
def test_every_block_comes_once(count: int) -> None:
    assert sorted(Permutation(count, 7, 2)(np.arange(count))) == list(range(count))


def test_seeds_and_epochs_give_unrelated_orders() -> None:
    orders = [Permutation(5000, seed, epoch)(np.arange(5000)) for seed in (0, 1) for epoch in (0, 1)]
    for index, one in enumerate(orders):
        assert abs(np.corrcoef(one, np.arange(5000))[0, 1]) < 0.06
        for other in orders[:index]:
            assert (one == other).sum() < 10  # chance gives 1
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.06


def test_samples_cross_epoch_borders_and_do_not_depend_on_how_they_are_asked_for() -> None:
    whole = samples(3, 50, 0, 170)
    assert sorted(whole[:50]) == sorted(whole[50:100]) == list(range(50))
    assert whole[:50].tolist() != whole[50:100].tolist()
    pieces = [samples(3, 50, start, min(7, 170 - start)) for start in range(0, 170, 7)]
    assert np.concatenate(pieces).tolist() == whole.tolist()
    assert samples(3, 50, 5, 0).tolist() == []


def test_a_seek_costs_the_same_in_a_corpus_of_any_size() -> None:
    for count in (10**3, 10**12):
        samples(0, count, 0, 32)
        best = min(_seconds(count, start) for start in range(10**9, 10**9 + 5))
        assert best < 1e-3


def _seconds(count: int, start: int) -> float:
    begun = time.perf_counter()
    samples(0, count, start, 32)
    return time.perf_counter() - begun
