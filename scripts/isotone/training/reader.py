"""Batches, read ahead by one thread; the order never depends on it."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isotone.data.batch import UNSCORED, Batch
from isotone.data.sample_order import samples
from isotone.tasks import Rows
from isotone.training.checkpointing.store import with_patience


@dataclass(frozen=True)
class Share:
    """One process's sequences of one step.

    Attributes:
        batch: all its leaves, one after the other.
        scored_B: targets that count, per sequence (on the CPU).
    """

    batch: Batch
    scored_B: Tensor


class Reader:
    """Gives the batch of any step, fastest for consecutive ones."""

    def __init__(
        self,
        blocks: Rows,
        *,
        seed: int,
        global_batch: int,
        share: slice | np.ndarray,
        device: torch.device,
        ahead: int,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            share: the sequences (a range, or their numbers) of the global batch that this process works on.
            ahead: batches that may wait.
        """
        self.blocks, self.seed, self.global_batch, self.share, self.device = blocks, seed, global_batch, share, device
        self.ahead = ahead
        self.waited = 0.0
        self._waiting: deque[tuple[int, Future[Share]]] = deque()
        self._pool = ThreadPoolExecutor(1, "reader") if ahead else None

    def read(self, step: int) -> Share:
        """Read one batch now."""
        order = samples(self.seed, len(self.blocks), step * self.global_batch, self.global_batch)[self.share]
        batch = with_patience(lambda: self.blocks.batch(order))
        moved = batch if self.device.type == "cpu" else batch.to(self.device, pinned=True)
        return Share(moved, (batch.targets_BT != UNSCORED).sum(1))

    def get(self, step: int) -> Share:
        """The batch of a step, and a start on the following ones."""
        start = time.monotonic()
        if self._pool is None:
            share = self.read(step)
        else:
            while self._waiting and self._waiting[0][0] != step:
                self._waiting.popleft()[1].cancel()
            if not self._waiting:
                self._submit(step)
            share = self._waiting.popleft()[1].result()
            for later in range(self._waiting[-1][0] + 1 if self._waiting else step + 1, step + 1 + self.ahead):
                self._submit(later)
        self.waited = time.monotonic() - start
        return share

    def _submit(self, step: int) -> None:
        if self._pool is not None:
            self._waiting.append((step, self._pool.submit(self.read, step)))

    def close(self) -> None:
        """Stop the thread."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
