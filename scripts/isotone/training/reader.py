"""Batches, read ahead by one thread; the order never depends on it."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isotone.data.blocks import UNSCORED, Blocks
from isotone.data.sample_order import samples
from isotone.training.checkpointing.store import with_patience


@dataclass(frozen=True)
class Batch:
    """One process's sequences of one step.

    Attributes:
        inputs_BT, targets_BT: all its leaves, one after the other.
        scored_B: targets that count, per sequence (on the CPU).
    """

    inputs_BT: Tensor
    targets_BT: Tensor
    scored_B: Tensor


class Reader:
    """Gives the batch of any step, fastest for consecutive ones."""

    def __init__(
        self,
        blocks: Blocks,
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
        self._waiting: deque[tuple[int, Future[Batch]]] = deque()
        self._pool = ThreadPoolExecutor(1, "reader") if ahead else None

    def read(self, step: int) -> Batch:
        """Read one batch now."""
        order = samples(self.seed, len(self.blocks), step * self.global_batch, self.global_batch)[self.share]
        inputs, targets = with_patience(lambda: self.blocks.batch(order))
        targets_BT = torch.from_numpy(targets)
        return Batch(self._move(torch.from_numpy(inputs)), self._move(targets_BT), (targets_BT != UNSCORED).sum(1))

    def _move(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def get(self, step: int) -> Batch:
        """The batch of a step, and a start on the following ones."""
        start = time.monotonic()
        if self._pool is None:
            batch = self.read(step)
        else:
            while self._waiting and self._waiting[0][0] != step:
                self._waiting.popleft()[1].cancel()
            if not self._waiting:
                self._submit(step)
            batch = self._waiting.popleft()[1].result()
            for later in range(self._waiting[-1][0] + 1 if self._waiting else step + 1, step + 1 + self.ahead):
                self._submit(later)
        self.waited = time.monotonic() - start
        return batch

    def _submit(self, step: int) -> None:
        if self._pool is not None:
            self._waiting.append((step, self._pool.submit(self.read, step)))

    def close(self) -> None:
        """Stop the thread."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
