"""The gradient of one global batch: leaves, processes, and what to do when memory runs out."""

from __future__ import annotations

import torch

from isotone.config.training import Operation, Training
from isotone.data.blocks import Blocks
from isotone.training.engine import Engine, is_out_of_memory
from isotone.training.progress import Progress
from isotone.training.reader import Reader
from isotone.training.supervision.outcome import ResourceError
from isotone.training.telemetry.history import Events
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
        blocks: Blocks,
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

    @property
    def fetch_seconds(self) -> float:
        """How long the last step waited for its batch."""
        return self.reader.waited if self.reader else 0.0

    def __call__(self, progress: Progress, flat: torch.Tensor) -> tuple[float, float]:
        """Sum the gradients of the step that follows ``progress``, over all leaves and processes.

        When memory runs out anywhere, every process drops what it has and tries the same
        step with leaves half as large (noted in ``progress``).

        Returns:
            Scored tokens, and the mean loss over them in nats.

        Raises:
            ResourceError: if halving does not help.
        """
        while True:
            rows = torch.zeros(self.training.global_batch // progress.micro_batch_size, 2, dtype=torch.float64)
            failed = False
            try:
                self._accumulate(progress, flat, rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failed = True
            if not self.world.any(failed)[0]:
                break
            self._halve(progress)
        self._reduce(flat)
        losses, counts = self.world.table(rows).T.tolist()
        tokens = max(sum(counts), 1.0)
        return tokens, sum(losses) / tokens

    def _reduce(self, flat: torch.Tensor) -> None:
        """Add up over processes."""
        if self.training.reduction == "exact":
            self.world.sum_exact(flat)
        else:
            bucket = (self.operation.bucket_mib << 20) // flat.element_size()
            self.world.sum_fast(flat, bucket=bucket, compress=self.training.compression == "bf16")

    def _accumulate(self, progress: Progress, flat: torch.Tensor, rows: torch.Tensor) -> None:
        if self.reader is None:
            raise ValueError("deal before gathering")
        size, exact = progress.micro_batch_size, self.training.reduction == "exact"
        flat.zero_()
        self.tree.clear()
        batch = self.reader.get(progress.step)
        losses = []
        for position, leaf in enumerate(self.leaves):
            part = slice(position * size, (position + 1) * size)
            inputs_BT, targets_BT = batch.inputs_BT[part], batch.targets_BT[part]
            losses.append(
                self.engine.train(inputs_BT, targets_BT, seed=self.seed, step=progress.step, micro_batch=leaf)
            )
            rows[leaf, 1] = batch.scored_B[part].sum()
            if exact and len(self.leaves) > 1:
                self.tree.add(flat)
                flat.zero_()
        rows[self.leaves.start : self.leaves.stop, 0] = torch.stack(losses).double().cpu()
        self.tree.take(flat)

    def _halve(self, progress: Progress) -> None:
        if progress.micro_batch_size % 2 or progress.halvings >= HALVINGS:
            raise ResourceError(
                f"Memory does not suffice for {progress.micro_batch_size} sequences of training.length = {self.training.length} at "
                f"once, after {progress.halvings} halvings of training.micro_batch_size = {self.training.micro_batch_size}. Use more processes, "
                "a device with more memory, training.gradient_checkpointing: true, or a smaller training.length."
            )
        progress.micro_batch_size, progress.halvings = progress.micro_batch_size // 2, progress.halvings + 1
        if self.world.device.type == "cuda":
            torch.cuda.empty_cache()
        self.events("out_of_memory", step=progress.step, micro_batch=progress.micro_batch_size)
        self.deal(progress.micro_batch_size)
