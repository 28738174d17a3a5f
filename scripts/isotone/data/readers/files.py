"""Documents from local files: txt, jsonl (plain, gz, zst) and parquet, one file or a folder of them.

Files are read here and not through `datasets`, whose readers stop at the first bad
byte: a study wants bad rows counted and the good ones used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from isotone.config.data import Source
from isotone.data.document import Document, Troubles, from_messages
from isotone.data.readers.compressed import content, lines
from isotone.errors import ConfigurationError

TEXT = (".txt", ".txt.gz", ".txt.zst")
ROWS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson")
TABLE = (".parquet",)
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
KNOWN = TEXT + ROWS + TABLE


def _named(folder: Path, part: str) -> list[Path]:
    """Files of a part: everything in a folder of that name, or files called so (``test.jsonl``, ``test-00001.parquet``)."""
    inside = PurePosixPath(part)
    if inside.is_absolute() or ".." in inside.parts:
        raise ConfigurationError(f'data.splits names the part "{part}", which leaves data.path. Name a part inside it.')
    if (folder / part).is_dir():
        return [path for path in (folder / part).rglob("*") if path.is_file()]
    parent, stem = (folder / part).parent, inside.name
    if not parent.is_dir():
        return []
    return [path for path in parent.iterdir() if path.is_file() and path.name.startswith((f"{stem}.", f"{stem}-"))]


def find_files(source: Source, part: str | None = None) -> list[Path]:
    """The files of a source, sorted by name.

    A folder that holds a part called like ``source.split`` (``train``) is read
    from that part only, so that its other parts can be held out.

    Raises:
        ConfigurationError: if there is nothing that can be read.
    """
    path = Path(source.path)
    if not path.exists():
        raise ConfigurationError(
            f'data.path is "{source.path}", which does not exist. Give a file or a folder of text.'
        )
    if path.is_file():
        found = [path] if part is None else _named(path.parent, part)
    elif part is None:
        found = _named(path, source.split) or [file for file in path.rglob("*") if file.is_file()]
    else:
        found = _named(path, part)
    files = sorted(file for file in found if file.name.endswith(KNOWN))
    if files:
        return files
    what = f'data.path is "{source.path}"' + (f', part "{part}"' if part else "")
    if any(file.name.endswith(ARCHIVES) for file in found):
        raise ConfigurationError(f"{what}: archives are not unpacked. Unpack it yourself and give the folder.")
    raise ConfigurationError(f"{what}: no file there ends in {', '.join(KNOWN)}.")


def _plain(path: Path, mode: str, troubles: Troubles) -> Iterator[Document]:
    if mode == "file":
        text = content(path, troubles)
        if text is not None:
            yield Document(path.name, text.strip())
        return
    held: list[str] = []
    first = 1
    for number, line in lines(path, troubles):
        if mode == "line":
            if line.strip():
                yield Document(f"{path.name}:{number}", line.strip())
        elif line.strip():
            first = first if held else number
            held.append(line.rstrip())
        elif held:
            yield Document(f"{path.name}:{first}", "\n".join(held))
            held = []
    if held:
        yield Document(f"{path.name}:{first}", "\n".join(held))


def document_of(row: Any, source: Source, where: str, troubles: Troubles) -> Document | None:
    """A row as a document, or None, counted, if its column is missing or holds no text."""
    column = source.messages or source.column
    if not isinstance(row, dict) or row.get(column) is None:
        has = ", ".join(sorted(map(str, row))[:8]) if isinstance(row, dict) else type(row).__name__
        troubles.add("missing_column", f'{where} has no "{column}" (it has: {has})')
        return None
    if source.messages:
        value = row[column]
        document = from_messages(where, json.loads(value) if isinstance(value, str) and value[:1] == "[" else value)
        if document is None:
            troubles.add("not_messages", where)
        return document
    if not isinstance(row[column], str):
        troubles.add("not_text", where)
        return None
    return Document(where, row[column])


def _rows(path: Path, source: Source, troubles: Troubles) -> Iterator[Document]:
    for number, line in lines(path, troubles):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            document = document_of(json.loads(line), source, where, troubles)
        except (json.JSONDecodeError, RecursionError):
            troubles.add("invalid_json", where)
            continue
        if document is not None:
            yield document


def _table(path: Path, source: Source, troubles: Troubles) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = source.messages or source.column
    try:
        with pq.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                has = ", ".join(file.schema_arrow.names[:8])
                troubles.add("missing_column", f'{path.name} has no "{column}" (it has: {has})')
                return
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                for row in batch.to_pylist():
                    number += 1
                    document = document_of(row, source, f"{path.name}:{number}", troubles)
                    if document is not None:
                        yield document
    except (pa.ArrowInvalid, OSError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        troubles.add("damaged_file", f"{path.name} ({reason})")


def _read(files: list[Path], source: Source, troubles: Troubles) -> Iterator[Document]:
    for path in files:
        if path.name.endswith(TEXT):
            yield from _plain(path, source.plain_text, troubles)
        elif path.name.endswith(ROWS):
            yield from _rows(path, source, troubles)
        else:
            yield from _table(path, source, troubles)


def open_files(source: Source, troubles: Troubles, part: str | None = None) -> Iterable[Document]:
    """The documents of local files, in the order of their names, read as they are needed.

    Raises:
        ConfigurationError: as `find_files`.
    """
    return _read(find_files(source, part), source, troubles)
