"""When a sharded run saves, and where it goes back to: every process has a part of each checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from isotone.training.checkpointing.checkpointer import Checkpointer
from isotone.training.checkpointing.lease import Lease
from isotone.training.checkpointing.store import Checkpoint, Store
from isotone.training.sharding.optimizer import ShardedOptimizer
from isotone.training.sharding.saver import ShardedSaver
from isotone.training.world import World


class ShardedCheckpointer(Checkpointer):
    """Every process has a saver; the first one has the lease, the clock and the last word."""

    world: World

    def hold_part(
        self,
        world: World,
        lease: Lease | None,
        optimizer: ShardedOptimizer,
        *,
        events: Callable[..., None],
        before: Callable[[], None],
        timeout: timedelta,
    ) -> ShardedSaver:
        """Save this process's rows below the folder of the first process's lease; all processes call it."""
        self.world, self.lease = world, lease
        folder, generation = world.share((str(lease.checkpoints), lease.generation) if lease else None)
        store = Store(Path(folder), events, clear=world.leads)
        world.share(None)  # what a killed trainer left is cleared away before anybody writes
        options = self.options(store, generation, before)
        self.saver = made = ShardedSaver(world, optimizer.rows, timeout=timeout, **options)
        made.measure(optimizer.state())
        return made

    def newest(self, before: int | None = None) -> Checkpoint | None:
        """The newest whole checkpoint of this history: verified in the first process, its tensors left on the disk."""
        if self.saver is None or not self.world.leads:
            return None
        return self.saver.store.newest(self.fits, before, tensors=False)
