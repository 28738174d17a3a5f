"""Which rows of each tensor a process holds, as FSDP2 deals them out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The rows ``start`` to ``stop`` of a tensor that has ``size``."""

    start: int
    stop: int
    size: int

    @classmethod
    def of(cls, size: int, rank: int, ranks: int) -> Rows:
        """The share of one of ``ranks`` processes: ceil(size / ranks) rows each, the last ones fewer or none."""
        each = -(-size // ranks)
        start = min(rank * each, size)
        return cls(start, min(start + each, size), size)

    @classmethod
    def all(cls, size: int) -> Rows:
        """All of a tensor."""
        return cls(0, size, size)

    @property
    def count(self) -> int:
        """How many they are."""
        return self.stop - self.start

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self.count == self.size

    def cut(self, tensor: Tensor) -> Tensor:
        """This part of a whole tensor (a view)."""
        return tensor[self.start : self.stop] if tensor.ndim else tensor
