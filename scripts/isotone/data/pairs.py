"""Packed pairs: rows that hold several pairs of a source and a target, one behind the other.

Pairs go into a row in the order of their documents until its source or its target side is full.
A row remembers which position belongs to which pair; attention stays inside a pair, so that it
is computed as if it were alone. A row per pair would hold text in 30 % of its positions.
"""

# Shape suffixes: B = rows, T = target positions, S = source positions, N = pairs.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isotone.data.batch import PADDING, UNSCORED, Batch
from isotone.data.blocks import TokenSplit
from isotone.errors import ConfigurationError


def first_of_rows(sources_N: np.ndarray, targets_N: np.ndarray, source_room: int, target_room: int) -> np.ndarray:
    """The first pair of every row, and last the number of pairs: ``[rows + 1]``."""
    ends_of_sources, ends_of_targets = np.cumsum(sources_N), np.cumsum(targets_N)
    starts, first, before = [], 0, (0, 0)
    while first < len(sources_N):
        starts.append(first)
        last = min(
            int(np.searchsorted(ends_of_sources, before[0] + source_room, side="right")),
            int(np.searchsorted(ends_of_targets, before[1] + target_room, side="right")),
        )
        first, before = last, (int(ends_of_sources[last - 1]), int(ends_of_targets[last - 1]))
    return np.array([*starts, len(sources_N)], np.int64)


class PairRows:
    """A split of pairs as ``len(self)`` rows.

    Attributes:
        length: source positions of a row (`training.length`).
        target_length: its target positions: as many times less as targets may be shorter than sources.
    """

    def __init__(self, split: TokenSplit, length: int) -> None:
        """Pack ``split`` into rows.

        Raises:
            ConfigurationError: if a row could not hold the longest pair.
        """
        limits = split.info["pairs"]
        if length < limits["max_source"]:
            raise ConfigurationError(
                f"training.length is {length}, but a source may have {limits['max_source']} tokens (data.pairs.max_source). "
                "A row has to hold the longest pair: raise training.length, or lower max_source."
            )
        self.split, self.length, self.start = split, length, int(split.info["start"])
        self.target_length = max(limits["max_target"], -(-length * limits["max_target"] // limits["max_source"]))
        if split.sources is None:
            raise ConfigurationError(f"{split.folder} holds texts, not pairs. Set data.task: pairs.")
        self._sources = split.sources
        table = split.documents
        self._columns = {name: table[name].to_numpy(np.int64) for name in ("start", "source_start", "source_length")}
        self._columns["length"] = table["length"].to_numpy(np.int64) + 1  # its EOS
        self._firsts = first_of_rows(
            self._columns["source_length"], self._columns["length"], self.length, self.target_length
        )

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._firsts) - 1

    @property
    def fill(self) -> float:
        """Share of all positions that hold a token of a pair."""
        held = int(self._columns["source_length"].sum() + self._columns["length"].sum())
        return held / (len(self) * (self.length + self.target_length))

    def batch(self, indices: np.ndarray) -> Batch:
        """Some rows, on the CPU."""
        import torch

        inputs, targets, source, *segments = map(torch.from_numpy, self.arrays(indices))
        return Batch(inputs, targets, source, (segments[0], segments[1]))

    def arrays(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """``(inputs_BT, targets_BT, source_BS, source_segments_BS, target_segments_BT)``, int64.

        Raises:
            IndexError: if an index is not a row.
        """
        indices = np.asarray(indices, np.int64)
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"rows {indices.min()} to {indices.max()} of {len(self)}")
        shapes = [(len(indices), self.target_length), (len(indices), self.length)]
        inputs_BT = np.full(shapes[0], self.start, np.int64)
        targets_BT = np.full(shapes[0], UNSCORED, np.int64)
        source_BS = np.full(shapes[1], self.start, np.int64)
        segments_BS, segments_BT = (np.full(shape, PADDING, np.int64) for shape in reversed(shapes))
        columns, sources = self._columns, self._sources
        for row, index in enumerate(indices):
            at_source = at_target = 0
            for number, pair in enumerate(range(self._firsts[index], self._firsts[index + 1]), 1):
                size, begin = columns["source_length"][pair], columns["source_start"][pair]
                source_BS[row, at_source : at_source + size] = sources[begin : begin + size]
                segments_BS[row, at_source : at_source + size] = number
                at_source += size
                size, begin = columns["length"][pair], columns["start"][pair]
                target = self.split.tokens[begin : begin + size]
                inputs_BT[row, at_target + 1 : at_target + size] = target[:-1]
                targets_BT[row, at_target : at_target + size] = target
                segments_BT[row, at_target : at_target + size] = number
                at_target += size
        return inputs_BT, targets_BT, source_BS, segments_BS, segments_BT


def padded(pairs: Sequence[tuple[np.ndarray, np.ndarray]], start: int) -> Batch:
    """A row for each ``(source_ids, target_ids)``, padded behind.

    Args:
        start: the token with which a decoder starts; it pads, too.
    """
    import torch

    source_room, target_room = (max(len(pair[side]) for pair in pairs) for side in (0, 1))
    inputs_BT = np.full((len(pairs), target_room), start, np.int64)
    targets_BT = np.full((len(pairs), target_room), UNSCORED, np.int64)
    source_BS = np.full((len(pairs), source_room), start, np.int64)
    segments_BS, segments_BT = np.full_like(source_BS, PADDING), np.full_like(targets_BT, PADDING)
    for row, (source, target) in enumerate(pairs):
        source_BS[row, : len(source)] = source
        inputs_BT[row, 1 : len(target)] = target[:-1]
        targets_BT[row, : len(target)] = target
        segments_BS[row, : len(source)], segments_BT[row, : len(target)] = 1, 1
    inputs, targets, sources, *segments = map(
        torch.from_numpy, (inputs_BT, targets_BT, source_BS, segments_BS, segments_BT)
    )
    return Batch(inputs, targets, sources, (segments[0], segments[1]))
