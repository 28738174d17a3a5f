"""A dataset from the hub: streamed once into the cache, up to the documents that are wanted, then read from there.

Streaming means that a study of 100 000 documents of a huge corpus downloads about
those and no more; keeping them as one parquet file means that every later run is
offline and reads the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from isotone.config.data import Source
from isotone.data.document import Document, Troubles
from isotone.data.readers.files import _table, columns_of
from isotone.environment import until
from isotone.errors import ConfigurationError
from isotone.hub.network import cache_in_words, explain, is_offline, is_transient
from isotone.hub.retries import retry
from isotone.progress import Progress
from isotone.records import digest_of, whole_file

GROUP = 1000


def cached(source: Source, part: str | None, limit: int) -> Path:
    """The file that holds the rows of a dataset's part; it may not exist yet.

    Args:
        limit: rows wanted; 0: all.
    """
    from huggingface_hub.constants import HF_HOME

    columns = columns_of(source)
    read: str | list[str] = columns[0] if len(columns) == 1 else columns
    identity = [source.name, source.revision, source.subset, part or source.split, read, limit]
    return Path(HF_HOME) / "isotone" / f"{source.name.replace('/', '--')}-{digest_of(identity)[:16]}.parquet"


def _stream(source: Source, split: str, skip: int) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    dataset = load_dataset(source.name, source.subset or None, split=split, revision=source.revision, streaming=True)
    yield from dataset.skip(skip) if skip else dataset


def _as_text(row: dict[str, Any], column: str) -> str | None:
    value = row.get(column)
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def fetch_part(source: Source, part: str | None, limit: int) -> Path:
    """Stream a dataset's part into the cache unless it is there.

    Raises:
        ConfigurationError: no such dataset, split or column; gated; unreachable after all tries.
    """
    path = cached(source, part, limit)
    if path.exists():
        return path
    split = part or source.split
    if is_offline():
        raise ConfigurationError(
            f"data.name is {source.name!r}, split {split!r}: it is not in the cache ({cache_in_words()}), and the hub is cut off "
            f"(HF_HUB_OFFLINE). Fetch it once on a machine with a connection: {until('fetch')}"
        )
    columns = columns_of(source)
    schema = pa.schema([(column, pa.string()) for column in columns])
    with whole_file(path, "wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        done = 0
        held: list[dict[str, Any]] = []

        def more() -> None:
            """Go on where the last try ended."""
            nonlocal done, held
            for row in _stream(source, split, done + len(held)):
                for column in columns:
                    if column not in row:
                        has = ", ".join(sorted(row)[:8])
                        raise ConfigurationError(
                            f"data.column is {column!r}, but {source.name!r} has the columns: {has}."
                        )
                held.append({column: _as_text(row, column) for column in columns})
                progress.add(1)
                full = limit and done + len(held) >= limit
                if len(held) >= GROUP or full:
                    writer.write_table(pa.Table.from_pylist(held, schema))
                    done, held = done + len(held), []
                if full:
                    return

        with Progress(f"fetching {source.name}", limit or None, "rows") as progress:
            try:
                retry(more, f"fetching dataset {source.name}", is_transient)
            except ConfigurationError:
                raise
            except ValueError as error:  # datasets' word for a split or subset that is not there
                raise ConfigurationError(f"data.name is {source.name!r}, split {split!r}: {error}") from None
            except (OSError, RuntimeError) as error:
                raise explain(error, "data", source.name, source.revision) from None
        if held:
            writer.write_table(pa.Table.from_pylist(held, schema))
    return path


def open_dataset(source: Source, troubles: Troubles, part: str | None = None, limit: int = 0) -> Iterable[Document]:
    """The documents of a dataset's part, from the cache.

    Raises:
        ConfigurationError: as `fetch_part`.
    """
    return _table(fetch_part(source, part, limit), f"{source.name}/{part or source.split}", source, troubles)
