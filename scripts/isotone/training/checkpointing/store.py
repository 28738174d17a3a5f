"""Checkpoints on disk: whole or absent, verified before they are trusted.

One folder per step: three safetensors files (weights or V, and AdamW's two moments),
``progress.json``, and ``manifest.json`` with size and SHA-256 of each. A folder is
written under a temporary name, made durable, renamed, and the parent made durable;
deleting renames first. So every ``step-*`` folder is complete unless the disk lied,
and that is found out by its digests.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from isotone.errors import InputOutputError
from isotone.records import Json, file_digest, read_json, sync_folder
from isotone.training.checkpointing.manifest import MANIFEST, SCHEMA, damage, read_manifest
from isotone.training.checkpointing.parts import joined
from isotone.training.checkpointing.tensors import check_file, read_tensors, write_tensors

_STEP = re.compile(r"step-(\d{9})$")
TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.ECONNRESET, errno.ENETDOWN}
FULL = {errno.ENOSPC, errno.EDQUOT}

State = Mapping[str, Mapping[str, Tensor]]
T = TypeVar("T")


@dataclass
class Checkpoint:
    """What was read back from one folder."""

    step: int
    progress: Json
    tensors: dict[str, dict[str, Tensor]]


def with_patience(action: Callable[[], T], *, tries: int = 5, first_wait: float = 0.5) -> T:
    """Repeat an action while a network or a file system has hiccups: waits of 0.5, 1, 2, 4 seconds."""
    for attempt in range(tries):
        try:
            return action()
        except OSError as error:
            if error.errno not in TRANSIENT or attempt == tries - 1:
                raise
            time.sleep(first_wait * 2**attempt)
    raise AssertionError("unreachable")


class Store:
    """The checkpoints of one generation."""

    def __init__(self, folder: Path, event: Callable[..., None], *, clear: bool = True) -> None:
        """Clear away what a killed trainer left half-written or half-deleted.

        Args:
            event: takes a kind and facts, for events.jsonl.
            clear: False in processes that share the folder with one that does.

        Raises:
            OSError: if nothing can be written there.
        """
        self.folder, self.event = Path(folder), event
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not writable", str(self.folder))
        for leftover in [] if not clear else [*self.folder.glob(".tmp-*"), *self.folder.glob(".trash-*")]:
            shutil.rmtree(leftover, ignore_errors=True)

    def path(self, step: int) -> Path:
        """The folder of one step."""
        return self.folder / f"step-{step:09d}"

    def steps(self) -> list[int]:
        """Steps with a checkpoint, oldest first."""
        return sorted(int(match[1]) for entry in os.scandir(self.folder) if (match := _STEP.match(entry.name)))

    def quarantined(self) -> list[Path]:
        """Folders that turned out to be damaged."""
        return sorted(self.folder.glob("damaged-*"))

    def write(self, step: int, tensors: State, progress: Json, label: str) -> None:
        """Write one checkpoint; when this returns, it survives a power cut.

        Args:
            label: distinguishes temporary names of different trainers.

        Raises:
            OSError: and then no ``step-*`` folder has appeared.
        """
        part = self.folder / f".tmp-{step:09d}-{label}"
        shutil.rmtree(part, ignore_errors=True)
        os.mkdir(part)
        try:
            with ThreadPoolExecutor(len(tensors)) as pool:
                jobs = {
                    f"{name}.safetensors": pool.submit(write_tensors, part / f"{name}.safetensors", group)
                    for name, group in tensors.items()
                }
            self.commit(part, step, {name: job.result() for name, job in jobs.items()}, progress)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def commit(self, part: Path, step: int, files: dict[str, Json], progress: Json) -> None:
        """Make a checkpoint of a folder whose tensors are written and durable.

        Args:
            files: their entries of the manifest.

        Raises:
            OSError: and then nothing of it is left.
        """
        try:
            files = {**files, "progress.json": _write_json(part / "progress.json", progress)}
            _write_json(part / MANIFEST, {"schema": SCHEMA, "step": step, "files": files})
            sync_folder(part)
            os.rename(part, self.path(step))
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        sync_folder(self.folder)

    def files(self, step: int) -> dict[str, Json]:
        """The manifest's entries of a checkpoint, by file.

        Raises:
            InputOutputError: if it has none.
        """
        return read_manifest(self.path(step))

    def verify(self, step: int, only: Collection[str] | None = None) -> None:
        """Read one checkpoint back from the disk, past the page cache.

        Args:
            only: these files of it; None: all.

        Raises:
            InputOutputError: if it is not what its manifest says.
        """
        if found := damage(self.path(step), past_cache=True, only=only):
            raise InputOutputError(f"{self.path(step)} does not read back: {found}")

    def read(self, step: int, *, tensors: bool = True) -> Checkpoint:
        """Read and verify one checkpoint.

        Args:
            tensors: False: verify them, but keep none (a sharded run reads its own rows then).

        Raises:
            InputOutputError: if it is damaged.
        """
        folder = self.path(step)
        try:
            files = read_manifest(folder)
            with ThreadPoolExecutor(3) as pool:
                jobs = {
                    name: pool.submit(read_tensors if tensors else check_file, folder / name, entry)
                    for name, entry in files.items()
                    if name.endswith(".safetensors")
                }
            found = {name: job.result() or {} for name, job in jobs.items()}
            whole = joined(files, found) if tensors else {}
            if file_digest(folder / "progress.json") != files["progress.json"]["sha256"]:
                raise InputOutputError(f"{folder / 'progress.json'} does not have the SHA-256 that its manifest says")
            return Checkpoint(step, read_json(folder / "progress.json"), whole)
        except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
            raise InputOutputError(f"{folder} is not a whole checkpoint ({error!r})") from None

    def newest(
        self, fits: Callable[[Json], bool], before: int | None = None, *, tensors: bool = True
    ) -> Checkpoint | None:
        """The newest checkpoint that is whole; damaged ones are put aside, never deleted.

        Args:
            fits: whether a checkpoint belongs to this run's history, by its progress;
                one that does not is deleted.
            before: only steps below this one.
            tensors: whether they are kept; see `read`.

        Raises:
            InputOutputError: if there are checkpoints and every one is damaged.
        """
        for step in reversed(self.steps()):
            if before is not None and step >= before:
                continue
            try:
                found = with_patience(lambda step=step: self.read(step, tensors=tensors))  # type: ignore[misc]
            except InputOutputError as error:
                aside = self.folder / f"damaged-{self.path(step).name}-{int(time.time())}"
                os.rename(self.path(step), aside)
                self.event("damaged", step=step, reason=str(error), kept=str(aside))
                continue
            if fits(found.progress):
                return found
            self.delete(step)
        if self.quarantined() and before is None:
            raise InputOutputError(
                f"{self.folder} holds no whole checkpoint: all {len(self.quarantined())} are damaged (folders damaged-*). "
                "Nothing was deleted. Put a good copy back as step-<number>, or delete the damaged-* folders to train "
                "from the beginning."
            )
        return None

    def delete(self, step: int) -> None:
        """Remove a checkpoint; from the first instant on it is no longer a ``step-*`` folder."""
        trash = self.folder / f".trash-{step:09d}-{os.getpid()}-{time.monotonic_ns()}"
        os.rename(self.path(step), trash)
        shutil.rmtree(trash, ignore_errors=True)

    def prune(self, keep: Collection[int]) -> None:
        """Delete every checkpoint that is not in ``keep``."""
        for step in self.steps():
            if step not in keep:
                self.delete(step)


def _write_json(path: Path, value: Json) -> Json:
    data = json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"size": len(data), "sha256": file_digest(path)}


def retained(
    steps: Collection[int],
    *,
    keep: int,
    is_epoch_end: Callable[[int], bool],
    is_anchor: Callable[[int], bool],
    always: Collection[int],
) -> set[int]:
    """Which checkpoints stay: the newest ``keep``, two newest epoch ends and anchors, and ``always``.

    Args:
        always: best and milestones.
    """
    ordered = sorted(steps)
    stay = set(ordered[-keep:]) | set(always)
    stay |= set([step for step in ordered if is_epoch_end(step)][-2:])
    stay |= set([step for step in ordered if is_anchor(step)][-2:])
    return stay & set(ordered)
