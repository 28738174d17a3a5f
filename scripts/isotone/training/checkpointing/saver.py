"""Saving in the background, and what happens when the disk is full.

Training stops only while its state is copied to a staging area; a thread writes that
copy. One save is in flight at a time. An older checkpoint goes only after the new one
was read back from the disk and hashed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from isotone.errors import InputOutputError
from isotone.records import Json
from isotone.training.checkpointing.store import FULL, State, Store, with_patience

ASSUMED_RATE = 50e6  # bytes per second of a disk that was not measured yet


class Saver:
    """Writes checkpoints of one run."""

    def __init__(
        self,
        store: Store,
        *,
        background: bool,
        label: str,
        retained: Callable[[Collection[int]], set[int]],
        essential: Callable[[], set[int]],
        before: Callable[[], None],
    ) -> None:
        """Nothing is written yet.

        Args:
            label: of this trainer, for temporary names.
            retained: which of the given steps stay after a good save.
            essential: what must stay, besides the newest valid one, when the disk is full.
            before: makes the logs durable that a checkpoint refers to.
        """
        self.store, self.background, self.label = store, background, label
        self.retained, self.essential, self.before = retained, essential, before
        self.stall = 0.0
        self.hurry = False
        self.failures = 0
        self._staging: dict[str, dict[str, Tensor]] = {}
        self._thread: threading.Thread | None = None
        self._rate = 0.0
        self.size = 0

    def expected_seconds(self) -> float:
        """How long the next save will take, by the slowest save so far."""
        return 0.2 + self.size / (self._rate or ASSUMED_RATE)

    def measure(self, tensors: State) -> None:
        """Learn the size of the state before the first save."""
        self.size = sum(value.numel() * value.element_size() for group in tensors.values() for value in group.values())

    def save(self, step: int, tensors: State, progress: Json) -> None:
        """Copy the state and write it, in the background if so chosen; a step that is saved already is not saved again."""
        start = time.monotonic()
        self.join()
        if step in self.store.steps():
            return
        self._stage(tensors)
        if self.background:
            self._thread = threading.Thread(target=self._save, args=(step, progress), name="save")
            self._thread.start()
        else:
            self._save(step, progress)
        self.stall += time.monotonic() - start

    def join(self) -> None:
        """Wait for the save in flight."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def release(self) -> None:
        """Give back the staging area."""
        self._staging = {}

    def _stage(self, tensors: State) -> None:
        """Copy to main memory, into the buffers of the last save where there are any."""
        if not self._staging:
            self._staging = {
                kind: {name: torch.empty_like(value, device="cpu") for name, value in group.items()}
                for kind, group in tensors.items()
            }
        for kind, group in tensors.items():
            for name, value in group.items():
                self._staging[kind][name].copy_(value)

    def _save(self, step: int, progress: Json) -> None:
        start = time.monotonic()
        try:
            self.with_room(step, lambda: self._write(step, progress))
        except OSError as error:
            self.failures += 1
            self.store.event("alarm", what="checkpoint not saved", step=step, error=str(error))
            return
        seconds = time.monotonic() - start
        self._rate = min(self._rate or 1e12, self.size / max(seconds, 1e-6))
        self.store.event("save", step=step, seconds=round(seconds, 4), bytes=self.size, background=self.background)
        if not self.hurry:
            self._verify_and_prune(step)

    def _write(self, step: int, progress: Json) -> None:
        self.before()
        with_patience(lambda: self.store.write(step, self._staging, progress, self.label))

    def with_room(self, step: int, write: Callable[[], None]) -> None:
        """Write something that follows the checkpoints below ``step``; if the disk is full, old ones go for it.

        Raises:
            OSError: if that does not help, or the trouble is another.
        """
        try:
            write()
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._make_room(step, error)
            write()

    def _make_room(self, step: int, error: OSError) -> None:
        older = [known for known in self.store.steps() if known < step]
        keep = {*older[-1:], *self.essential()}
        self.store.event("alarm", what="disk full, old checkpoints go", step=step, error=str(error), kept=sorted(keep))
        self.store.prune(keep)

    def _verify_and_prune(self, step: int) -> None:
        try:
            with_patience(lambda: self.store.verify(step))
            self.store.prune(self.retained(self.store.steps()))
        except (OSError, InputOutputError) as error:
            self.failures += 1
            self.store.event("alarm", what="checkpoint not verified; older ones stay", step=step, error=str(error))
