"""The gradient of one global batch on shards: leaves are dealt out in turns, and each turn is one subtree."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from isotone.errors import Unfinished
from isotone.training.engine import is_out_of_memory
from isotone.training.gather import Gatherer
from isotone.training.reader import Reader
from isotone.training.sharding.optimizer import ShardedOptimizer
from isotone.training.state import TrainerState
from isotone.training.world import leaf_range


class ShardedGatherer(Gatherer):
    """Fills the optimizer's flat gradient buffer with the shards of summed gradients."""

    optimizer: ShardedOptimizer

    def deal(self, leaf: int) -> None:
        """Divide the global batch into leaves of ``leaf`` sequences: leaf = turn x processes + rank."""
        self.close()
        count, world = self.training.global_batch // leaf, self.world
        leaf_range(world, count, self.training)  # refuses what cannot be dealt out
        self.leaves = range(world.rank, count, world.size)
        self.turns = -(-count // world.size)
        share = np.concatenate([np.arange(number * leaf, (number + 1) * leaf) for number in self.leaves])
        self.reader = Reader(
            self.blocks,
            seed=self.seed,
            global_batch=self.training.global_batch,
            share=share,
            device=world.device,
            ahead=self.operation.prefetch,
        )

    def _accumulate(self, state: TrainerState, flat: Tensor, rows: Tensor) -> None:
        try:
            self._take_turns(state, flat, rows)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):  # nobody else would answer: the others sit in a collective
                raise Unfinished("Memory ran out in this process.") from error
            raise

    def _take_turns(self, state: TrainerState, flat: Tensor, rows: Tensor) -> None:
        if self.reader is None:
            raise ValueError("deal before gathering")
        size, exact = state.micro_batch_size, self.training.reduction == "exact"
        self.tree.clear()
        self.tree.use(flat)  # a whole buffer less: nothing else is in it while the tree grows
        share = self.reader.get(state.step)
        losses: list[Tensor] = []
        for turn in range(self.turns):
            part = slice(turn * size, (turn + 1) * size)
            if turn < len(self.leaves):
                leaf, batch = self.leaves[turn], share.batch[part]
                rows[leaf, 1] = share.scored_B[part].sum()
            else:  # `fast` with leaves left over: every process must take part in every turn
                leaf, batch = len(rows), share.batch[:size].unscored()
            losses.append(self.engine.train(batch, seed=self.seed, step=state.step, micro_batch=leaf))
            if exact:
                self.tree.add_by(self.optimizer.collect, like=flat)
            else:
                self.optimizer.collect(flat, turn > 0)
        rows[list(self.leaves), 0] = torch.stack(losses[: len(self.leaves)]).double().cpu()
        if exact:
            self.tree.take(flat)

    def _reduce(self, flat: Tensor) -> None:
        """Each turn was summed over processes already."""
