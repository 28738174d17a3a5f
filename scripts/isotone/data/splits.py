"""From documents to disjoint splits on disk.

A document's split follows from the hash of its normalised text alone (of its group's
name, where it has one: the verses of a chapter stay together), so that copies of a text can never stand on both sides, more documents never move one
that was placed before, and the whole pass needs constant memory (apart from one
hash per document).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from isotone.config.data import SPLITS, Data, Splits
from isotone.data.document import Document, Troubles
from isotone.errors import ConfigurationError
from isotone.progress import Progress

SCHEMA = pa.schema(
    [
        ("document", pa.string()),
        ("text", pa.string()),
        ("bytes", pa.int64()),
        ("digest", pa.string()),
        ("messages", pa.string()),  # JSON of a chat, else empty
    ]
)
PAIRS = SCHEMA.append(pa.field("source", pa.string()))  # `text` is the target
GROUP_BYTES = 4 << 20  # text per row group: the unit of tokenising work, and of memory
METADATA = b"isotone"
LARGEST_NUL_SHARE = 0.1  # English in UTF-16 that is taken for UTF-8 has one half

Opener = Callable[[list[str]], tuple[str, Iterable[Document]]]


def uniform(seed: int, digest: str) -> float:
    """A number in [0, 1) that depends on ``seed`` and the document's digest only."""
    drawn = hashlib.sha256(f"{seed}:{digest}".encode()).digest()
    return int.from_bytes(drawn[:7], "big") / 2**56


def place(digest: str, seed: int, shares: Mapping[str, float]) -> str | None:
    """The split of a document, or None where the shares leave it out."""
    level, edge = uniform(seed, digest), 0.0
    for name, share in shares.items():
        edge += share
        if level < edge:
            return name
    return None


class SplitWriter:
    """Writes one split as parquet, in row groups of bounded size."""

    def __init__(self, path: Path, *, pairs: bool = False) -> None:
        """Open ``path`` for writing texts, or pairs of texts."""
        self._pairs, self._schema = pairs, PAIRS if pairs else SCHEMA
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._size = 0
        self._hash = hashlib.sha256()
        self.documents = self.bytes = 0

    def add(self, document: Document, digest: str) -> None:
        """Append one document."""
        size = len(document.text.encode())
        self._rows.append(
            {
                "document": document.name,
                "text": document.text,
                "bytes": size,
                "digest": digest,
                "messages": document.messages_json,
                **({"source": document.source} if self._pairs else {}),
            }
        )
        other = document.messages_json if document.source is None else document.source
        self._hash.update(hashlib.sha256((document.text + "\0" + other).encode()).digest())
        self.documents += 1
        self.bytes += size
        self._size += size + len((document.source or "").encode())
        if self._size >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows, self._size = [], 0

    def close(self, origin: Mapping[str, Any]) -> dict[str, Any]:
        """Finish the file; what is known about it travels inside it."""
        self._flush()
        facts = {"documents": self.documents, "bytes": self.bytes, "fingerprint": self._hash.hexdigest(), **origin}
        self._writer.add_key_value_metadata({METADATA: json.dumps(facts, sort_keys=True).encode()})
        self._writer.close()
        return facts


def facts_of(path: Path) -> dict[str, Any]:
    """What `SplitWriter.close` left inside a documents file."""
    return dict(json.loads(pq.read_metadata(path).metadata[METADATA]))


def read_documents(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a documents file, one row group in memory at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group).to_pylist()


def _clean(
    documents: Iterable[Document], seen: set[bytes], troubles: Troubles, copy: str
) -> Iterator[tuple[Document, str]]:
    """Documents that hold text and were not seen before, with their digests."""
    for document in documents:
        if not all(side.strip() for side in document.sides):
            troubles.add("empty" if not document.text.strip() else "empty_source", document.name)
            continue
        if any(side.count("\0") > LARGEST_NUL_SHARE * len(side) for side in document.sides):
            troubles.add("mostly_nul", f"{document.name} (UTF-16 or UTF-32 without a mark in front?)")
            continue
        try:
            "".join([*document.sides, *(turn["role"] for turn in document.messages)]).encode()
        except UnicodeEncodeError:  # JSON can spell half a character
            troubles.add("invalid_unicode", document.name)
            continue
        keys = document.keys
        if not seen.isdisjoint(keys):
            troubles.add(copy, document.name)
            continue
        seen.update(keys)
        yield document, document.digest


def _owners(splits: Splits) -> dict[tuple[str, ...], list[str]]:
    """Lists of named parts, each with the splits that share its documents."""
    owners: dict[tuple[str, ...], list[str]] = {}
    for split, names in splits.held_out().items():
        owners.setdefault(tuple(names), []).append(split)
    return owners


def build_splits(
    settings: Data, folder: Path, open_part: Opener, main: Iterable[Document], troubles: Troubles
) -> dict[str, Any]:
    """Read every document once and write the splits into ``folder``.

    Held-out parts that the user names are read first; a document of the main
    source that equals one of them (after normalisation) is left out and counted
    as ``also_held_out``, so that no held-out text is trained on.

    Args:
        open_part: opens the first part that exists of a list of names; returns its name and documents.
        main: the documents of the main source.
        troubles: counts of bad input, which the sources also write to.

    Returns:
        Facts per split: documents, bytes, fingerprint, and where its text comes from.

    Raises:
        ConfigurationError: if nothing can be read, or a split stays without documents.
    """
    pairs = settings.task == "pairs"
    writers = {split: SplitWriter(folder / f"{split}.parquet", pairs=pairs) for split in SPLITS}
    origin: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
    held_out: set[bytes] = set()
    for names, owners in _owners(settings.splits).items():
        part, documents = open_part(list(names))
        shares = {owner: 1 / len(owners) + 1e-12 for owner in owners}
        bound = settings.held_out_documents or None
        for document, digest in islice(_clean(documents, held_out, troubles, "copy"), bound):
            split = place(document.place, settings.seed, shares)
            writers[split or owners[-1]].add(document, digest)
        for owner in owners:
            origin[owner] = {"part": part, "asked": list(names)}
    seen: set[bytes] = set()
    shares = settings.splits.shares()
    kept = 0
    with Progress("documents", settings.documents or None) as progress:
        for document, digest in _clean(main, seen, troubles, "copy"):
            if not held_out.isdisjoint(document.keys):
                troubles.add("also_held_out", document.name)
                continue
            kept += 1
            split = place(document.place, settings.seed, shares)
            if split is not None:
                writers[split].add(document, digest)
            progress.add(1, troubles.sentence())
            if settings.documents and kept >= settings.documents:
                break
    for split in shares:
        origin[split] = {"share": shares[split]}
    facts = {split: writers[split].close({**origin[split], "seed": settings.seed}) for split in SPLITS}
    _insist(facts, kept + len(held_out), settings.splits, troubles)
    return facts


def _insist(facts: Mapping[str, Mapping[str, Any]], documents: int, splits: Splits, troubles: Troubles) -> None:
    first = next(iter(troubles.examples.values()), "")
    bad = f" ({troubles.sentence()}; first: {first})" if troubles.counts else ""
    if not documents:
        raise ConfigurationError(
            f"data: no usable document was found{bad}. Check data.path, data.column and data.messages against the files."
        )
    for split, fact in facts.items():
        share = splits.shares().get(split, 1.0)
        if not fact["documents"] and share > 0:
            raise ConfigurationError(
                f"data.splits.{split} is {getattr(splits, split)}, which gives it no document of {documents}{bad}. "
                "Raise its share, add documents, or, for .txt files, set data.plain_text to paragraph or line."
            )
