"""The order of samples: a pure function of (seed, epoch, position), with nothing to store.

Sample s belongs to epoch ``s // N`` and is block ``permutation(s mod N)`` of that
epoch. The permutation is a Feistel network over the next power of four, walked
until it lands below N (cycle walking): seeking costs microseconds for any corpus,
and no list of N indices ever exists.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 8
_MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """A 64-bit finaliser (splitmix64, Steele et al. 2014): every input bit reaches every output bit."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31


def _mix_array(values: np.ndarray) -> np.ndarray:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


class Permutation:
    """A permutation of ``0 .. count - 1`` named by (seed, epoch)."""

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        """Derive the round keys; no memory grows with ``count``."""
        self.count = count
        self._half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)  # bits of each half
        key = mix(mix(seed & _MASK) ^ epoch)
        self._keys = [np.uint64(mix(key ^ mix(number))) for number in range(ROUNDS)]

    def _network(self, values: np.ndarray) -> np.ndarray:
        half, mask = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        left, right = values >> half, values & mask
        for key in self._keys:
            left, right = right, left ^ (_mix_array(right ^ key) & mask)
        return left << half | right

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The blocks at ``positions`` (any order, each below ``count``), int64."""
        values = self._network(np.asarray(positions, np.uint64))
        while (outside := values >= self.count).any():
            values[outside] = self._network(values[outside])
        return values.astype(np.int64)


def samples(seed: int, count: int, start: int, number: int) -> np.ndarray:
    """Blocks of samples ``start .. start + number - 1``, across epoch borders (int64).

    Args:
        count: blocks in the corpus, N.
        start: ``step x global_batch`` for a whole step.
    """
    positions = np.arange(start, start + number, dtype=np.int64)
    epochs = positions // count
    blocks = np.empty(number, np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1) if number else ():
        inside = epochs == epoch
        blocks[inside] = Permutation(count, seed, epoch)(positions[inside] % count)
    return blocks
