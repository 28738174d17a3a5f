"""The gradient of one global batch: leaves, processes, and what to do when memory runs out."""

from __future__ import annotations

import torch

from isotone.config.training import Operation, Training
from isotone.devices import release
from isotone.tasks import Rows
from isotone.training.engine import Engine, is_out_of_memory
from isotone.training.reader import Reader
from isotone.training.state import TrainerState
from isotone.training.supervision.outcome import ResourceError
from isotone.training.telemetry.events import Events
from isotone.training.world import TreeSum, World, leaf_range

HALVINGS = 5


class Gatherer:
    """Fills the optimizer's flat gradient buffer, step by step."""

    def __init__(
        self,
        training: Training,
        operation: Operation,
        seed: int,
        world: World,
        engine: Engine,
        blocks: Rows,
        events: Events,
    ) -> None:
        """Nothing is dealt out before `deal`."""
        self.training, self.operation, self.seed = training, operation, seed
        self.world, self.engine, self.blocks, self.events = world, engine, blocks, events
        self.tree = TreeSum()
        self.reader: Reader | None = None
        self.leaves = range(0)

    def deal(self, leaf: int) -> None:
        """Divide the global batch into leaves of ``leaf`` sequences, and those among the processes."""
        self.close()
        self.leaves = leaf_range(self.world, self.training.global_batch // leaf, self.training)
        self.reader = Reader(
            self.blocks,
            seed=self.seed,
            global_batch=self.training.global_batch,
            share=slice(self.leaves.start * leaf, self.leaves.stop * leaf),
            device=self.world.device,
            ahead=self.operation.prefetch,
        )

    def close(self) -> None:
        """Stop reading ahead."""
        if self.reader:
            self.reader.close()

    def release(self) -> None:
        """Give back the memory of batches and sums; no step can follow."""
        self.close()
        self.reader, self.tree = None, TreeSum()

    @property
    def fetch_seconds(self) -> float:
        """How long the last step waited for its batch."""
        return self.reader.waited if self.reader else 0.0

    def __call__(self, state: TrainerState, flat: torch.Tensor) -> tuple[float, float]:
        """Sum the gradients of the step that follows ``state``, over all leaves and processes.

        When memory runs out anywhere, every process drops what it has and tries the same
        step with leaves half as large (noted in ``state``).

        Returns:
            Scored tokens, and the mean loss over them in nats.

        Raises:
            ResourceError: if halving does not help.
        """
        while True:
            rows = torch.zeros(self.training.global_batch // state.micro_batch_size, 2, dtype=torch.float64)
            failed = False
            try:
                self._accumulate(state, flat, rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failed = True
            if not self.world.any(failed)[0]:
                break
            self.halve(state)
        self._reduce(flat)
        losses, counts = self.world.table(rows).T.tolist()
        tokens = max(sum(counts), 1.0)
        return tokens, sum(losses) / tokens

    def _reduce(self, flat: torch.Tensor) -> None:
        """Add up over processes."""
        if self.training.reduction == "exact":
            self.world.sum_exact(flat, self.tree.lend(flat) if self.world.size > 1 else flat)
        else:
            bucket = (self.operation.bucket_mib << 20) // flat.element_size()
            self.world.sum_fast(flat, bucket=bucket, compress=self.training.compression == "bf16")

    def _accumulate(self, state: TrainerState, flat: torch.Tensor, rows: torch.Tensor) -> None:
        if self.reader is None:
            raise ValueError("deal before gathering")
        size, exact = state.micro_batch_size, self.training.reduction == "exact"
        flat.zero_()
        self.tree.clear()
        share = self.reader.get(state.step)
        losses = []
        for position, leaf in enumerate(self.leaves):
            part = slice(position * size, (position + 1) * size)
            losses.append(self.engine.train(share.batch[part], seed=self.seed, step=state.step, micro_batch=leaf))
            rows[leaf, 1] = share.scored_B[part].sum()
            if exact and len(self.leaves) > 1:
                self.tree.add(flat)
                flat.zero_()
        rows[self.leaves.start : self.leaves.stop, 0] = torch.stack(losses).double().cpu()
        self.tree.take(flat)
        self._reserve(flat)

    def _reserve(self, flat: torch.Tensor) -> None:
        """Have the buffer of the exchange, here, where running out of memory is noticed by all."""
        if self.training.reduction == "exact" and self.world.size > 1:
            self.tree.lend(flat)

    def halve(self, state: TrainerState) -> None:
        """Go on with micro-batches half as large (noted in ``state``).

        Raises:
            ResourceError: if that was tried often enough, or there is no half.
        """
        state.micro_batch_size, state.halvings = self.halved(state)
        release(self.world.device)
        self.events("out_of_memory", step=state.step, micro_batch_size=state.micro_batch_size)
        self.deal(state.micro_batch_size)

    def halved(self, state: TrainerState) -> tuple[int, int]:
        """Half the micro-batch, and how often it was halved then.

        Raises:
            ResourceError: if that was tried often enough, or there is no half.
        """
        if state.micro_batch_size % 2 or state.halvings >= HALVINGS:
            raise ResourceError(
                f"Memory does not suffice for {state.micro_batch_size} sequences of training.length = {self.training.length} at "
                f"once, after {state.halvings} halvings of training.micro_batch_size = {self.training.micro_batch_size}. Use more processes, "
                "a device with more memory, training.gradient_checkpointing: true, or a smaller training.length."
            )
        return state.micro_batch_size // 2, state.halvings + 1
