"""The one manifest of attack documents that every model and every attack shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isotone.attacks.shared import AttackDocuments
from isotone.attacks.vocabulary import Vocabulary, survives
from isotone.errors import ConfigurationError
from isotone.evaluation.perplexity import SHORTEST
from isotone.records import digest_of, read_json, read_rows, write_json, write_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

SCHEMA = "attack_documents/1"


@dataclass(frozen=True)
class Document:
    """A text under attack, or a pair.

    Attributes:
        ids: text tokens ``[T]``, no special token in front; of a pair ``source EOS target EOS``.
        eligible: positions that may change: not the first, not the last, no special token; of a pair those of the
            source behind its prefix.
    """

    name: str
    ids: np.ndarray
    eligible: np.ndarray


def eligible_positions(ids: np.ndarray, special: Iterable[int]) -> np.ndarray:
    """Positions that may change: neither end, no special token (a change of the last token harms nothing behind it)."""
    inner = np.arange(1, len(ids) - 1)
    return inner[~np.isin(ids[1:-1], sorted(special))]


def select(
    texts: Iterable[tuple[str, np.ndarray]],
    count: int,
    settings: AttackDocuments,
    tokenizer: Tokenizer,
    part: str,
) -> tuple[list[Document], dict[str, int]]:
    """The first ``count`` usable documents of ``texts``, cut to the window.

    Returns:
        The documents, and how many were passed over for each reason.

    Raises:
        ConfigurationError: if there are too few.
    """
    chosen: list[Document] = []
    excluded = {"short": 0, "closed": 0, "unstable": 0}
    for name, full in texts:
        if len(chosen) == count:
            break
        ids = np.asarray(full[: settings.window], np.int64)
        eligible = eligible_positions(ids, tokenizer.all_special_ids)
        if len(ids) < SHORTEST:
            excluded["short"] += 1
        elif not len(eligible):
            excluded["closed"] += 1
        elif settings.threat_model == "text" and not survives(tokenizer, ids.tolist()):
            excluded["unstable"] += 1
        else:
            chosen.append(Document(name, ids, eligible))
    if len(chosen) < count:
        key = "attacks.shared.documents" if part == "test" else "attacks.shared.search_documents"
        raise ConfigurationError(
            f"{key} is {count}, but the attack {part} split has {len(chosen)} usable documents (passed over: {excluded}). "
            "Lower the setting or give the split a larger share (data.splits)."
        )
    return chosen, excluded


def select_pairs(
    pairs: Iterable[tuple[str, np.ndarray, np.ndarray, int]], count: int, special: Iterable[int], part: str
) -> tuple[list[Document], dict[str, int]]:
    """As `select`, for pairs: ``(name, source_ids, target_ids, tokens of the prefix)``, whole, since a cut pair is another.

    Raises:
        ConfigurationError: if there are too few.
    """
    from isotone.evaluation.pairs import joined

    closed = sorted(special)
    chosen: list[Document] = []
    passed = {"closed": 0}
    for name, source, target, prefix in pairs:
        if len(chosen) == count:
            break
        inner = np.arange(prefix, len(source) - 1)
        eligible = inner[~np.isin(source[prefix:-1], closed)]
        if len(eligible):
            chosen.append(Document(name, joined(source, target), eligible))
        else:
            passed["closed"] += 1
    if len(chosen) < count:
        key = "attacks.shared.documents" if part == "test" else "attacks.shared.search_documents"
        raise ConfigurationError(
            f"{key} is {count}, but the attack {part} split has {len(chosen)} usable pairs (passed over: {passed}). "
            "Lower the setting or give the split a larger share (data.splits)."
        )
    return chosen, passed


def unigram_counts(documents: Sequence[Document], rows: int) -> np.ndarray:
    """How often each of ``rows`` ids occurs in ``documents``."""
    return np.bincount(np.concatenate([document.ids for document in documents]), minlength=rows)


def write_manifest(
    folder: Path, test: Sequence[Document], search: Sequence[Document], vocabulary: Vocabulary, about: dict[str, Any]
) -> None:
    """Write documents.jsonl, vocabulary.json and, last, manifest.json into ``folder``.

    Raises:
        ConfigurationError: if a text stands in both parts.
    """
    seen = {digest_of(document.ids.tolist()): document.name for document in search}
    for document in test:
        twin = seen.get(digest_of(document.ids.tolist()))
        if twin is not None:
            raise ConfigurationError(
                f'Attack document "{document.name}" has the text of search document "{twin}". Triggers would be measured '
                "where they were found; remove the repeated document from the data."
            )
    rows = [
        {"part": part, "document": document.name, "ids": document.ids.tolist(), "eligible": document.eligible.tolist()}
        for part, documents in (("test", test), ("search", search))
        for document in documents
    ]
    write_rows(folder / "documents.jsonl", SCHEMA, rows)
    tokens = {"allowed": vocabulary.allowed.tolist(), "pieces": vocabulary.pieces, "counts": vocabulary.counts.tolist()}
    write_json(folder / "vocabulary.json", tokens)
    digests = {"documents": digest_of(rows), "vocabulary": digest_of(tokens)}
    write_json(folder / "manifest.json", {**about, "digests": digests})


@dataclass(frozen=True)
class Manifest:
    """What `write_manifest` wrote.

    Attributes:
        eos: of pairs, the token that ends a source; None for texts.
        start: of pairs, the token with which a decoder starts.
    """

    test: list[Document]
    search: list[Document]
    vocabulary: Vocabulary
    digest: str
    eos: int | None = None
    start: int = 0

    @property
    def pairs(self) -> bool:
        """Whether the documents are pairs."""
        return self.eos is not None


def read_manifest(folder: Path) -> Manifest:
    """Read the shared documents.

    Raises:
        InputOutputError: if a file is missing or damaged.
        ConfigurationError: if a document is empty.
    """
    info = read_json(folder / "manifest.json")
    parts: dict[str, list[Document]] = {"test": [], "search": []}
    for row in read_rows(folder / "documents.jsonl", SCHEMA):
        if len(row["ids"]) < 2 or not row["eligible"]:
            raise ConfigurationError(
                f'{folder}: document "{row["document"]}" is empty or has no position to change. Remake it.'
            )
        ids, eligible = np.array(row["ids"], np.int64), np.array(row["eligible"], np.int64)
        parts[row["part"]].append(Document(row["document"], ids, eligible))
    tokens = read_json(folder / "vocabulary.json")
    vocabulary = Vocabulary(
        np.array(tokens["allowed"], np.int64), tokens["pieces"], np.array(tokens["counts"], np.int64)
    )
    return Manifest(
        parts["test"], parts["search"], vocabulary, digest_of(info["digests"]), info.get("eos"), info.get("start", 0)
    )
