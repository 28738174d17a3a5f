"""Opens the configured source of text, or the first of its alternatives that can be had."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from isotone.config.data import SPLITS, Data, Source
from isotone.data.document import Document, Troubles
from isotone.data.near_copies import treat
from isotone.data.splits import build_splits, facts_of
from isotone.environment import say
from isotone.errors import ConfigurationError, IsotoneError


def open_source(
    source: Source, troubles: Troubles, part: str | None = None, limit: int = 0, *, pairs: bool = False
) -> Iterable[Document]:
    """The documents of one source, read as they are needed.

    Args:
        part: another part of it than ``source`` names: a dataset split, or a file or folder
            beside or below ``source.path``.
        limit: rows that a dataset is cut at while it is fetched; 0: none.
        pairs: of the embedded texts, verses in two translations instead of chapters.

    Raises:
        ConfigurationError: if it cannot be had; it fails here, not at the first document.
    """
    if source.source == "embedded":
        from isotone.data.readers.embedded import chapters, verse_pairs

        if part is not None:
            raise ConfigurationError(
                f'data.splits names the part "{part}", but the embedded corpus has no parts. Give shares instead.'
            )
        return verse_pairs() if pairs else chapters()
    if source.source == "local":
        from isotone.data.readers.files import open_files

        return open_files(source, troubles, part)
    from isotone.data.readers.dataset import open_dataset

    return open_dataset(source, troubles, part, limit)


def describe(source: Source, *, pairs: bool = False) -> dict[str, Any]:
    """Which source it is, for records: no machine's paths, only the last name of a local one."""
    if source.source == "embedded":
        from isotone.data.readers import embedded

        found = {"source": "embedded", "package": embedded.PACKAGE, "version": embedded.version()}
        modern = {"targets": embedded.MODERN, "targets_version": embedded.version(embedded.MODERN)}
        return found | modern if pairs else found
    if source.source == "local":
        return {"source": "local", "name": Path(source.path).name}
    return {key: getattr(source, key) for key in ("source", "name", "revision", "subset", "split")}


def _first_part(source: Source, troubles: Troubles, limit: int, names: list[str]) -> tuple[str, Iterable[Document]]:
    failures = []
    for name in names:
        try:
            return name, open_source(source, troubles, name, limit)
        except ConfigurationError as error:
            failures.append(f"{name}: {error}")
    raise ConfigurationError("data.splits names parts of which none can be had. " + " ".join(failures))


def wanted_rows(documents: int) -> int:
    """Rows to fetch for so many documents: some more, because copies and empty ones are left out; 0: all."""
    return math.ceil(1.1 * documents) + 100 if documents else 0


def _held_out_rows(settings: Data) -> int:
    """Rows to fetch of each held-out part: enough where all lists of names end at one part; 0: all."""
    lists = len(set(map(tuple, settings.splits.held_out().values())))
    return wanted_rows(settings.held_out_documents * max(1, lists))


def fetch_data(settings: Data) -> dict[str, Any]:
    """Download what the first source that can be had needs; empty if that one is no dataset of the hub.

    Raises:
        ConfigurationError: if no source can be had.
    """
    reasons = []
    for candidate in settings.candidates():
        try:
            open_source(candidate, Troubles(), None, wanted_rows(settings.documents))
            for names in settings.splits.held_out().values():
                _first_part(candidate, Troubles(), _held_out_rows(settings), names)
        except ConfigurationError as error:
            reasons.append(str(error))
            continue
        return describe(candidate) if candidate.source == "hub" else {}
    raise ConfigurationError("\n".join(reasons))


def make_corpus(settings: Data, folder: Path) -> dict[str, Any]:
    """Read the first source that can be had and write its splits into ``folder``.

    Returns:
        What the marker says: the source used, those that failed before it, facts
        per split, bad input, and how disjointness was ensured.

    Raises:
        ConfigurationError: if no source can be had, or a split stays empty.
    """
    failed: list[dict[str, str]] = []
    pairs = settings.task == "pairs"
    for candidate in settings.candidates():
        troubles = Troubles()
        try:
            main = open_source(candidate, troubles, None, wanted_rows(settings.documents), pairs=pairs)
        except IsotoneError as error:
            failed.append({"source": candidate.source, "reason": str(error)})
            if candidate is not settings.candidates()[-1]:
                say(f"{error}\n  The next of data.alternatives is tried.")
            continue
        open_part = functools.partial(_first_part, candidate, troubles, _held_out_rows(settings))
        build_splits(settings, folder, open_part, main, troubles)
        near_copies = treat(settings.near_copies, folder, [split for split in SPLITS if split != "train"])
        if troubles.counts:
            say(f"data: left out {troubles.sentence()}.")
        return {
            "used": describe(candidate, pairs=pairs),
            "failed_before": [entry["source"] for entry in failed],
            "splits": {split: facts_of(folder / f"{split}.parquet") for split in SPLITS},
            "near_copies": near_copies,
            "left_out": troubles.result(),
            "disjoint": "by SHA-256 of the text after NFKC, case folding and joining of white space; copies are left out"
            + (" (a pair is one if either of its texts is), and groups of pairs stay together" if pairs else ""),
        }
    raise ConfigurationError("\n".join(entry["reason"] for entry in failed))
