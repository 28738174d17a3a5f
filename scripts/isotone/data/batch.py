"""A batch: what a model reads, and what it has to predict."""

# Shape suffixes: B = rows, T = target positions, S = source positions.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

UNSCORED = -100
"""Target of a position that is no part of the loss."""
PADDING = 0
"""Segment of a position that belongs to no pair."""


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass, on one device.

    Attributes:
        inputs_BT: what goes in; of pairs, into the decoder.
        targets_BT: the token that each position has to predict, or `UNSCORED`.
        source_BS: of pairs, what goes into the encoder; None for texts.
        segments: of rows that hold several pairs, the pair's number in its row (from 1) at each source and each
            target position, ``([B, S], [B, T])``; None where each row is one pair without padding.
    """

    inputs_BT: Tensor
    targets_BT: Tensor
    source_BS: Tensor | None = None
    segments: tuple[Tensor, Tensor] | None = None

    def _parts(self) -> list[Tensor]:
        return [
            self.inputs_BT,
            self.targets_BT,
            *([] if self.source_BS is None else [self.source_BS]),
            *(self.segments or ()),
        ]

    def _of(self, parts: list[Tensor]) -> Batch:
        source = None if self.source_BS is None else parts[2]
        return Batch(parts[0], parts[1], source, (parts[3], parts[4]) if self.segments else None)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.inputs_BT)

    def __getitem__(self, rows: slice) -> Batch:
        """Some of the rows."""
        return self._of([part[rows] for part in self._parts()])

    def split(self, rows: int) -> Iterator[Batch]:
        """A few rows at a time."""
        for first in range(0, len(self), rows):
            yield self[first : first + rows]

    def to(self, device: torch.device | str, *, pinned: bool = False) -> Batch:
        """The same on another device; ``pinned``: without waiting for it."""
        parts = [part.pin_memory() for part in self._parts()] if pinned else self._parts()
        return self._of([part.to(device, non_blocking=pinned) for part in parts])

    def unscored(self) -> Batch:
        """The same rows with nothing to predict: they take part and add nothing."""
        return self._of([self.inputs_BT, (self.targets_BT * 0) + UNSCORED, *self._parts()[2:]])

    def numel(self) -> int:
        """Tokens that go in, padding included."""
        return self.inputs_BT.numel() + (0 if self.source_BS is None else self.source_BS.numel())
