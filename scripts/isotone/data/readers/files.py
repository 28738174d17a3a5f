"""Documents from local files: txt, jsonl (plain, gz, zst) and parquet, one file or a folder of them; pairs also from csv.

Files are read here and not through `datasets`, whose readers stop at the first bad
byte: a study wants bad rows counted and the good ones used.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from isotone.config.data import Source, user_path
from isotone.data.document import Document, Troubles, from_messages
from isotone.data.readers.compressed import content, lines
from isotone.errors import ConfigurationError

TEXT = (".txt", ".txt.gz", ".txt.zst")
ROWS = tuple(kind + packed for kind in (".jsonl", ".ndjson") for packed in ("", ".gz", ".zst"))
TABLE = (".parquet",)
COMMAS = (".csv",)  # of pairs
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
OTHERS = {
    (".json", ".json.gz", ".json.zst"): "A .json file is one value; JSON Lines (.jsonl) has one object per line. "
    "Convert an array of objects with: jq -c '.[]' FILE.json > FILE.jsonl",
    (".csv", ".tsv", ".arrow", ".feather"): "Save the table as parquet, for example with pandas: "
    'pd.read_csv("FILE.csv").to_parquet("FILE.parquet")',
    (".bz2", ".xz", ".lz4", ".lzma"): "Of compressed files .gz and .zst are read; decompress this one",
}
KNOWN = TEXT + ROWS + TABLE
PAIRED = ROWS + TABLE + COMMAS


def _ends(path: Path, endings: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(endings)


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


def _root(source: Source) -> Path:
    """What documents are named below: ``data.path``, or the folder of the file that it is."""
    path = user_path(source.path)
    return path.parent if path.is_file() else path


def find_files(source: Source, part: str | None = None) -> list[Path]:
    """The files of a source, sorted by name.

    A folder that holds a part called like ``source.split`` (``train``) is read
    from that part only, so that its other parts can be held out.

    Raises:
        ConfigurationError: if there is nothing that can be read.
    """
    path = user_path(source.path)
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
    known = PAIRED if source.source_column else KNOWN
    files = sorted(file for file in found if _ends(file, known))
    if files:
        return files
    what = f'data.path is "{source.path}"' + (f', part "{part}"' if part else "")
    if any(_ends(file, ARCHIVES) for file in found):
        raise ConfigurationError(f"{what}: archives are not unpacked. Unpack it yourself and give the folder.")
    advice = next((f" {text}." for endings, text in OTHERS.items() if any(_ends(file, endings) for file in found)), "")
    raise ConfigurationError(f"{what}: no file there ends in {', '.join(known)}.{advice}")


def name_of(path: Path, root: Path) -> str:
    """A file's path below ``root``: two shards of one name in two folders are two names. Odd bytes are spelt out."""
    below = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return os.fsencode(below.as_posix()).decode("utf-8", "backslashreplace")


def _plain(path: Path, name: str, mode: str, troubles: Troubles) -> Iterator[Document]:
    if mode == "file":
        text = content(path, name, troubles)
        if text is not None:
            yield Document(name, text.strip())
        return
    held: list[str] = []
    first = 1
    for number, line in lines(path, name, troubles):
        if mode == "line":
            if line.strip():
                yield Document(f"{name}:{number}", line.strip())
        elif line.strip():
            first = first if held else number
            held.append(line.rstrip())
        elif held:
            yield Document(f"{name}:{first}", "\n".join(held))
            held = []
    if held:
        yield Document(f"{name}:{first}", "\n".join(held))


def _turns(value: Any) -> Any:
    """Chat turns, which some tables keep as JSON in a text column."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def columns_of(source: Source) -> list[str]:
    """The columns that are read: of pairs the target, the source and, if there is one, the group."""
    if not source.source_column:
        return [source.messages or source.column]
    return [source.column, source.source_column, *([source.group_column] if source.group_column else [])]


def document_of(row: Any, source: Source, where: str, troubles: Troubles) -> Document | None:
    """A row as a document, or None, counted, if one of its columns is missing or holds no text."""
    if not isinstance(row, dict):
        troubles.add("not_an_object", f"{where} is a {type(row).__name__}; JSON Lines has one object per line")
        return None
    for column in columns_of(source):
        if column not in row:
            has = ", ".join(sorted(map(str, row))[:8])
            troubles.add("missing_column", f'{where} has no "{column}" (it has: {has})')
            return None
        if row[column] is None:
            troubles.add("null", f'{where}: "{column}" is null')
            return None
    if source.source_column:
        return _pair(row, source, where, troubles)
    column = source.messages or source.column
    value = row[column]
    if source.messages:
        document = from_messages(where, _turns(value))
        if document is None:
            troubles.add("not_messages", where)
        return document
    if not isinstance(value, str):
        troubles.add("not_text", f'{where}: "{column}" is a {type(value).__name__}')
        return None
    return Document(where, value)


def _pair(row: dict[str, Any], source: Source, where: str, troubles: Troubles) -> Document | None:
    for column in (source.column, source.source_column):
        if not isinstance(row[column], str):
            troubles.add("not_text", f'{where}: "{column}" is a {type(row[column]).__name__}')
            return None
    group = str(row[source.group_column]) if source.group_column else ""
    return Document(where, row[source.column].strip(), source=row[source.source_column].strip(), group=group)


def _rows(path: Path, name: str, source: Source, troubles: Troubles) -> Iterator[Document]:
    for number, line in lines(path, name, troubles):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
            troubles.add("invalid_json", f"{where} ({error}); JSON Lines has one JSON object per line")
            continue
        document = document_of(row, source, where, troubles)
        if document is not None:
            yield document


def _values(column: Any, where: Callable[[int], str], troubles: Troubles) -> Iterator[tuple[int, Any]]:
    """Numbered values of an arrow column; what Python cannot hold (bytes that are no UTF-8, odd dates) is counted."""
    import pyarrow as pa

    try:
        yield from enumerate(column.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):
        for number, scalar in enumerate(column):
            try:
                value = scalar.as_py()
            except (ValueError, OverflowError, pa.ArrowException) as error:
                kind = "invalid_utf8" if isinstance(error, UnicodeDecodeError) else "unreadable"
                troubles.add(kind, where(number))
                continue
            yield number, value


def _table(path: Path, name: str, source: Source, troubles: Troubles) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = columns_of(source)
    try:
        with pq.ParquetFile(path) as file:
            for column in columns:
                if column not in file.schema_arrow.names:
                    has = ", ".join(file.schema_arrow.names[:8])
                    troubles.add("missing_column", f'{name} has no "{column}" (it has: {has})')
                    return
            done = 0
            for batch in file.iter_batches(batch_size=256, columns=columns):

                def where(number: int, done: int = done) -> str:
                    return f"{name}:{done + number + 1}"

                found = [dict(_values(batch.column(column), where, troubles)) for column in columns]
                for number in sorted(set.intersection(*map(set, found))):
                    row = dict(zip(columns, (values[number] for values in found), strict=True))
                    document = document_of(row, source, where(number), troubles)
                    if document is not None:
                        yield document
                done += len(batch)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        troubles.add("damaged_file", f"{name} ({reason})")


def _commas(path: Path, name: str, source: Source, troubles: Troubles) -> Iterator[Document]:
    """Rows of a .csv file whose first line names the columns."""
    text = content(path, name, troubles)
    if text is None:
        return
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for number, row in enumerate(reader, 1):
            document = document_of(row, source, f"{name}:{number}", troubles)
            if document is not None:
                yield document
    except csv.Error as error:
        troubles.add("damaged_file", f"{name} ({error})")


def _read(files: list[Path], source: Source, root: Path, troubles: Troubles) -> Iterator[Document]:
    for path in files:
        name = name_of(path, root)
        if _ends(path, COMMAS):
            yield from _commas(path, name, source, troubles)
        elif _ends(path, TEXT):
            yield from _plain(path, name, source.plain_text, troubles)
        elif _ends(path, ROWS):
            yield from _rows(path, name, source, troubles)
        else:
            yield from _table(path, name, source, troubles)


def open_files(source: Source, troubles: Troubles, part: str | None = None) -> Iterable[Document]:
    """The documents of local files, in the order of their names, read as they are needed.

    Raises:
        ConfigurationError: as `find_files`.
    """
    return _read(find_files(source, part), source, _root(source), troubles)
