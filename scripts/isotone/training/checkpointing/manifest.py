"""What a checkpoint's folder should hold, and whether it does; no torch."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from isotone.errors import InputOutputError
from isotone.records import Json, file_digest, read_json

MANIFEST = "manifest.json"
SCHEMA = "checkpoint/1"


def read_manifest(folder: Path) -> dict[str, Json]:
    """Size, SHA-256 and more of each file, by its name.

    Raises:
        InputOutputError: if the manifest is missing, damaged, of another step or names files elsewhere.
    """
    path = Path(folder) / MANIFEST
    manifest = read_json(path)
    step, files = manifest.get("step"), manifest.get("files")
    if manifest.get("schema") != SCHEMA or not isinstance(step, int) or f"step-{step:09d}" != path.parent.name:
        raise InputOutputError(f"{path} does not describe this step")
    if not isinstance(files, dict) or any(Path(name).name != name for name in files):
        raise InputOutputError(f"{path} does not name files of its folder")
    return files


def damage(folder: Path, *, past_cache: bool = False, only: Collection[str] | None = None) -> str:
    """What is wrong with a checkpoint, in words; empty if every byte is as it was written.

    Args:
        past_cache: read the disk itself, not what the system remembers of it.
        only: look at these files of it; None: at all.
    """
    try:
        for name, entry in read_manifest(folder).items():
            if only is not None and name not in only:
                continue
            path = Path(folder) / name
            if past_cache:
                drop_from_memory(path)
            if path.stat().st_size != entry["size"] or file_digest(path) != entry["sha256"]:
                return f"{name} is not what was written"
    except (InputOutputError, FileNotFoundError, KeyError, TypeError) as error:
        return str(error) if isinstance(error, InputOutputError) else f"it is not whole ({error!r})"
    return ""


def drop_from_memory(path: Path) -> None:
    """Ask the system to forget a file's cached pages, so that reading it back reads the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
