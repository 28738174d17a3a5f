"""Saving a sharded run: each process writes its own rows, all agree that they are whole, the first one commits."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from isotone.errors import InputOutputError
from isotone.records import Json, sync_folder
from isotone.training.checkpointing.parts import part_name
from isotone.training.checkpointing.saver import Saver
from isotone.training.checkpointing.store import FULL, State, with_patience
from isotone.training.checkpointing.tensors import write_tensors
from isotone.training.sharding.slices import Rows
from isotone.training.world import World


class ShardedSaver(Saver):
    """One of these in every process. Saves are agreed upon in a process group of their own, of main memory."""

    def __init__(self, world: World, rows: dict[str, Rows], *, timeout: timedelta, **options: Any) -> None:
        """Nothing is written yet.

        Args:
            rows: which rows of each tensor this process saves.
            timeout: after which a process that says nothing is given up.
            options: of `Saver`.
        """
        self._hurried = False
        super().__init__(**options)
        self.world, self.rows = world, rows
        self.group = dist.new_group(backend="gloo", timeout=timeout)
        self.attempts = 0

    @property
    def hurry(self) -> bool:
        """Never known to one process alone: `_verify_and_prune` asks them all."""
        return False

    @hurry.setter
    def hurry(self, value: bool) -> None:
        self._hurried = value

    def measure(self, tensors: State) -> None:
        """Learn the size of the state of all processes before the first save."""
        super().measure(tensors)
        self.size = sum(self._everyone(self.size))

    def save(self, step: int, tensors: State, progress: Json) -> None:
        """Copy this process's rows and write them; what the first process finds saved already is not saved again."""
        self.join()
        if not self.world.share(self.world.leads and step in self.store.steps()):
            super().save(step, tensors, progress)

    def _save(self, step: int, progress: Json) -> None:
        try:
            super()._save(step, progress)
        except RuntimeError as error:  # another process is gone; the loop will notice too
            self.failures += 1
            self.store.event("alarm", what="checkpoint not saved", step=step, error=str(error))

    def with_room(self, step: int, write: Callable[[], None]) -> None:
        """Write something in all processes; if the disk is full for any, old checkpoints go and all try again.

        Raises:
            OSError: in all processes alike.
        """
        for attempt in range(2):
            error: OSError | None = None
            try:
                write()
            except OSError as found:
                error = found
            numbers = self._everyone(None if error is None else (error.errno or errno.EIO, str(error)))
            failed = [number for number in numbers if number is not None]
            if not failed:
                return
            code, text = next((pair for pair in failed if pair[0] in FULL), failed[0])
            trouble = error or OSError(code, f"{text} (in another process)")
            if attempt or code not in FULL:
                raise trouble
            if self.world.leads:
                self._make_room(step, trouble)
            self._everyone(None)

    def _write(self, step: int, progress: Json) -> None:
        """Write this process's files, and in the first process the checkpoint around them."""
        self.attempts += 1
        part = self.store.folder / f".tmp-{step:09d}-{self.label}-{self.attempts}"
        mine: dict[str, Json] = {}
        error: OSError | None = None
        try:
            self.before()
            mine = with_patience(lambda: self._write_files(part))
        except OSError as found:
            error = found
        everyone = self._everyone((mine, None if error is None else (error.errno or errno.EIO, str(error))))
        failed = [trouble for _, trouble in everyone if trouble is not None]
        if self.world.leads:
            if failed:
                shutil.rmtree(part, ignore_errors=True)
            else:
                try:
                    self.store.commit(
                        part, step, {name: entry for files, _ in everyone for name, entry in files.items()}, progress
                    )
                except OSError as found:
                    error = found
        if failed and error is None:
            raise OSError(failed[0][0], f"{failed[0][1]} (in another process)")
        if error is not None:
            raise error

    def _write_files(self, part: Any) -> dict[str, Json]:
        os.makedirs(part, exist_ok=True)
        files = {}
        for kind, tensors in self._staging.items():
            kept = {name: value for name, value in tensors.items() if self.world.leads or not self.rows[name].is_whole}
            name = part_name(kind, self.world.rank, self.world.size)
            entry = write_tensors(part / name, kept)
            ranges = {key: [self.rows[key].start, self.rows[key].stop, self.rows[key].size] for key in kept}
            files[name] = {**entry, "rows": ranges}
        sync_folder(part)
        return files

    def _verify_and_prune(self, step: int) -> None:
        """Each process reads back what it wrote; nothing older goes unless all found it whole."""
        if any(self._everyone(self._hurried)):
            return
        trouble = ""
        try:
            own = [part_name(kind, self.world.rank, self.world.size) for kind in self._staging]
            with_patience(lambda: self.store.verify(step, only=own))
        except (OSError, InputOutputError) as error:
            trouble = str(error)
        found = [text for text in self._everyone(trouble) if text]
        if not found:
            if self.world.leads:
                self.store.prune(self.retained(self.store.steps()))
            return
        self.failures += 1
        self.store.event("alarm", what="checkpoint not verified; older ones stay", step=step, error=found[0])

    def _everyone(self, value: Any) -> list[Any]:
        """What each process has to say; plain data."""
        values: list[Any] = [None] * self.world.size
        dist.all_gather_object(values, value, group=self.group)
        return values
