"""The loss on the first validation blocks, shared out among the processes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from isotone.tasks import Rows
from isotone.training.engine import Engine
from isotone.training.world import World


class Validator:
    """Scores the same blocks each time, whatever the number of processes."""

    def __init__(self, blocks: Rows, count: int, world: World, engine: Engine, *, everyone: bool = False) -> None:
        """Score the first ``count`` of ``blocks``, or all if there are fewer.

        Args:
            everyone: every process must take part in every forward pass, because each holds a part of the model.
        """
        self.everyone = everyone
        self.blocks, self.count = blocks, min(count, len(blocks))
        self.world, self.engine = world, engine

    def __call__(self, size: int, *, between: Callable[[], None]) -> float:
        """Mean loss in nats per scored token; NaN or infinite if a loss is.

        Args:
            size: sequences per forward pass.
            between: called in front of each batch, in every process alike.
        """
        world, starts = self.world, range(0, self.count, size)
        rows = torch.zeros(len(starts), 2, dtype=torch.float64)
        share = [rank * len(starts) // world.size for rank in (world.rank, world.rank + 1)]
        for turn in range(-(-len(starts) // world.size)):
            between()
            number = share[0] + turn
            if number < share[1]:
                blocks = np.arange(starts[number], min(starts[number] + size, self.count))
                batch = self.blocks.batch(blocks)
                rows[number, 0] = self.engine.score(batch.to(world.device)).double().cpu()
                rows[number, 1] = (batch.targets_BT >= 0).sum()
            elif self.everyone:
                self.engine.score(self.blocks.batch(np.arange(1)).to(world.device).unscored())
        losses, counts = world.table(rows).T.tolist()
        return float(sum(losses) / max(sum(counts), 1.0))
