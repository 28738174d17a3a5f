"""Files that are either whole or absent: JSON, rows, digests, markers.

Everything that a stage leaves behind goes through here. A file appears under
its final name only when it is complete and on the disk, so that a killed job
leaves nothing that a later stage could mistake for a result.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isotone.errors import InputOutputError
from isotone.provenance import software

Json = dict[str, Any]


def canonical_json(value: Any) -> str:
    """The one spelling of ``value``: sorted keys, no spaces, UTF-8, no NaN.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path, pattern: str = "**/*") -> str:
    """SHA-256 over the relative names and bytes of a folder's files.

    Raises:
        InputOutputError: if there is none; nothing would have a digest like any other.
    """
    files = sorted(path for path in Path(folder).glob(pattern) if path.is_file())
    if not files:
        raise InputOutputError(
            f"{folder} holds no {pattern}: it is missing or not whole. Run the step that makes it again."
        )
    return digest_of([[path.relative_to(folder).as_posix(), file_digest(path)] for path in files])


def sync_folder(folder: Path) -> None:
    """Make the names inside ``folder`` durable (fsync of the directory)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[Any]:
    """Open a file that appears under ``path`` only when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes the name ``path`` only when the block ends well.

    What stood at ``path`` before is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    readable = part.stat().st_mode & 0o666
    try:
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                file.chmod(readable)  # safetensors writes files that only their owner can read
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        if path.exists():
            shutil.rmtree(path)
        os.replace(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, atomically; NaN is an error."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with whole_file(path) as file:
        file.write(text + "\n")


def read_json(path: Path) -> Json:
    """Read a JSON file.

    Raises:
        InputOutputError: if it is missing, cut off or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputOutputError(f"{path} is missing. Run the step that makes it again.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputOutputError(f"{path} is damaged ({error}). Delete it and run its step again.") from None


def read_json_quietly(path: Path) -> Json | None:
    """A JSON file, or None if it is not there or being written."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _check_finite(row: Mapping[str, Any], path: Path, index: int) -> None:
    for key, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{path}: row {index} has {key} = {value}; a result must be a number")


def write_rows(path: Path, schema: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write JSON Lines, one row each, every row carrying ``schema``; returns how many.

    Args:
        schema: name and version of the row's layout, such as ``"hotflip/1"``.
    """
    count = 0
    with whole_file(path) as file:
        for count, row in enumerate(rows, 1):
            _check_finite(row, path, count)
            file.write(canonical_json({"schema": schema, **row}) + "\n")
    return count


def read_rows(path: Path, schema: str) -> list[Json]:
    """Read JSON Lines and insist on their schema.

    Raises:
        InputOutputError: if a line is damaged or has another schema.
    """
    rows = []
    try:
        # Not splitlines(): model text may hold U+2028 and its kin, which JSON leaves as they are.
        lines = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise InputOutputError(f"{path} is missing. Run the step that makes it again.") from None
    for number, line in enumerate(lines if lines != [""] else [], 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputOutputError(f"{path}, line {number} is damaged ({error}). Delete it and rerun.") from None
        if row.pop("schema", None) != schema:
            raise InputOutputError(f"{path}, line {number} does not follow {schema}. Delete it and rerun its step.")
        rows.append(row)
    return rows


def write_marker(
    path: Path,
    stage: str,
    *,
    settings: Any,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    result: Mapping[str, Any],
    cost: Mapping[str, Any] | None = None,
) -> None:
    """Write the last file of a stage: what was done, by which Isotone, on what, with digests.

    Args:
        settings: the canonical settings of the program.
        inputs, outputs: name to SHA-256.
        result: what the stage found; repeats bit for bit.
        cost: seconds, hosts and the like, which do not repeat.
    """
    write_json(
        path,
        {
            "stage": stage,
            "isotone": software(),
            "settings": settings,
            "inputs": dict(inputs),
            "outputs": dict(outputs),
            "result": dict(result),
            "cost": dict(cost or {}),
        },
    )
