"""The jobs of `scripts/attack_documents.py`: choose documents and vocabulary once, for all models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from isotone import models
from isotone.attacks import documents as shared
from isotone.attacks.shared import DocumentsJob
from isotone.attacks.vocabulary import Vocabulary, allowed_tokens, pieces_of
from isotone.data.blocks import TokenSplit
from isotone.errors import ConfigurationError
from isotone.records import read_json, whole_folder
from isotone.schema import as_mapping


def texts_of(split: TokenSplit) -> Iterator[tuple[str, np.ndarray]]:
    """Names and text ids of a split's documents, in the order in which they are drawn."""
    for index in split.drawn():
        yield str(split.documents["document"].iloc[index]), split.text_ids(index)


def pairs_of(split: TokenSplit) -> Iterator[tuple[str, np.ndarray, np.ndarray, int]]:
    """Names, sources, targets and tokens of the prefix of a split's pairs, in the order in which they are drawn."""
    table = split.documents
    for index in split.drawn():
        yield str(table["document"].iloc[index]), *split.pair(index), int(table["source_prefix"].iloc[index])


def special_ids(tokenizer: Any) -> list[int]:
    """Ids that no attack on a source may change or write: special tokens, and T5's sentinels."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = {index for token, index in tokenizer.get_vocab().items() if token.startswith("<extra_id_")}
    return sorted({*tokenizer.all_special_ids, *added, *named})


def make(job: DocumentsJob, tokenizer_folder: Path, test_folder: Path, search_folder: Path, out: Path) -> None:
    """Write the folder that every attack reads.

    Raises:
        ConfigurationError: if documents or tokens are too few, or the two parts share a text.
    """
    tokenizer = models.load_tokenizer(tokenizer_folder)
    rows = embedding_rows(tokenizer_folder, 1 + max(tokenizer.get_vocab().values()))
    test_split, search_split = TokenSplit.open(test_folder), TokenSplit.open(search_folder)
    special = special_ids(tokenizer) if test_split.task == "pairs" else list(tokenizer.all_special_ids)
    (test, passed_test), (search, passed_search) = (
        shared.select_pairs(pairs_of(split), count, special, part)
        if split.task == "pairs"
        else shared.select(texts_of(split), count, job.shared, tokenizer, part)
        for split, count, part in (
            (test_split, job.shared.documents, "test"),
            (search_split, job.shared.search_documents, "search"),
        )
    )
    pieces = pieces_of(tokenizer, rows)
    allowed = allowed_tokens(pieces, special, job.shared.vocabulary)
    vocabulary = Vocabulary(allowed, pieces, shared.unigram_counts(search, rows))
    about: dict[str, Any] = {
        "stage": "attack_documents",
        **({"eos": test_split.info["eos"], "start": test_split.info["start"]} if test_split.task == "pairs" else {}),
        "settings": as_mapping(job),
        "inputs": {"test": test_split.fingerprint, "search": search_split.fingerprint},
        "result": {
            "documents": len(test),
            "search_documents": len(search),
            "passed_over": {"test": passed_test, "search": passed_search},
            "allowed_tokens": len(allowed),
            "embedding_rows": rows,
            "eligible_positions": int(sum(len(document.eligible) for document in test)),
        },
    }
    with whole_folder(out) as part:
        shared.write_manifest(part, test, search, vocabulary, about)


def embedding_rows(folder: Path, tokens: int) -> int:
    """Rows of the model's embedding, which may be padded beyond the tokenizer's last token.

    Args:
        tokens: one more than the tokenizer's largest id.
    """
    config = read_json(folder / "config.json")
    rows = int(config.get("vocab_size", tokens))
    if rows < tokens:
        raise ConfigurationError(
            f"{folder}: the tokenizer's largest id is {tokens - 1}, but the model has {rows} embedding rows. They do not belong together."
        )
    return rows
