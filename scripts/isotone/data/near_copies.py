"""Near-copies: held-out documents of which much stands word for word in the training documents.

Exact copies are left out while the text is split. What shares long passages is found
here, by the 13-grams of words that Brown et al. (2020, arXiv:2005.14165, appendix C)
used for the same purpose: lower case, punctuation left out, and in scripts that write
no spaces each character is a word. A text with fewer words is one gram.
"""

# Shape suffixes: W = words of a document, G = its grams, H = grams of all held-out documents.

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isotone.config.data import NearCopies
from isotone.data.document import Document, normalise
from isotone.data.splits import SplitWriter, facts_of, read_documents
from isotone.errors import ConfigurationError

WORDS_PER_GRAM = 13
_WORD = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\\W_]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@functools.lru_cache(maxsize=1 << 18)
def _number(word: str) -> int:
    """64 bits of a word, the same on every machine."""
    import xxhash

    return int(xxhash.xxh3_64_intdigest(word.encode()))


def grams(text: str) -> np.ndarray:
    """The distinct 13-grams of a text as 64-bit numbers, sorted: [G]."""
    words_W = np.array([_number(word) for word in _WORD.findall(normalise(text))], np.uint64)
    length = min(WORDS_PER_GRAM, len(words_W))
    if not length:
        return words_W
    sums_G = np.zeros(len(words_W) - length + 1, np.uint64)
    for offset in range(length):
        sums_G = sums_G * _FACTOR + words_W[offset : offset + len(sums_G)]  # modulo 2^64
    return np.unique(sums_G)


def shares_in(train: Iterable[str], held_out: Iterable[str]) -> np.ndarray:
    """The share of each held-out text's 13-grams that some training text has too.

    Memory grows with the held-out texts only.
    """
    grams_of = [grams(text) for text in held_out]
    known_H = np.unique(np.concatenate([*grams_of, np.empty(0, np.uint64)]))
    found_H = np.zeros(len(known_H), bool)
    for text in train:
        grams_G = grams(text)
        places = np.searchsorted(known_H, grams_G)
        inside = places < len(known_H)
        places, grams_G = places[inside], grams_G[inside]
        found_H[places[known_H[places] == grams_G]] = True
    return np.array([found_H[np.searchsorted(known_H, own)].mean() if len(own) else 0.0 for own in grams_of])


def treat(settings: NearCopies, folder: Path, held_out: Iterable[str]) -> dict[str, Any]:
    """Count the near-copies in written splits, and leave them out where the settings say so.

    Args:
        folder: holds ``train.parquet`` and one file per name in ``held_out``.

    Returns:
        Per split how many there are, the largest and the mean share and the document with
        the largest; empty if nothing was looked for.

    Raises:
        ConfigurationError: if a split has nothing but near-copies, and they are to be removed.
    """
    if settings.action == "ignore":
        return {}
    rows = {split: list(_sizes(folder / f"{split}.parquet")) for split in held_out}
    texts = (_text(row) for split in rows for row in read_documents(folder / f"{split}.parquet"))
    shares = shares_in(map(_text, read_documents(folder / "train.parquet")), texts)
    result, first = {}, 0
    for split, names in rows.items():
        own = shares[first : first + len(names)]
        first += len(names)
        near = own >= settings.share
        result[split] = {
            "documents": len(names),
            "near_copies": int(near.sum()),
            "mean_share": round(float(own.mean()), 4),
            "largest_share": round(float(own.max()), 4),
            "largest": names[int(own.argmax())],
        }
        if settings.action == "remove" and near.any():
            if near.all():
                raise ConfigurationError(
                    f"data.near_copies.action is remove, and each of the {len(names)} documents of split {split} has at least "
                    f"{settings.share:g} of its 13-grams in the training documents. Raise data.near_copies.share, or hold out other text."
                )
            _leave_out(folder / f"{split}.parquet", near)
    return result


def _text(row: Mapping[str, Any]) -> str:
    """A document's text; of a pair both, since a copy of either would help."""
    return f"{row['source']}\n{row['text']}" if row.get("source") is not None else str(row["text"])


def _sizes(path: Path) -> Iterable[str]:
    return (row["document"] for row in read_documents(path))


def _leave_out(path: Path, near: np.ndarray) -> None:
    """Write a split again without some of its documents."""
    import json

    import pyarrow.parquet as pq

    kept: Mapping[str, Any] = facts_of(path)
    part = path.with_name(f".{path.name}.part")
    pairs = "source" in pq.read_schema(path).names
    writer = SplitWriter(part, pairs=pairs)
    for row, out in zip(read_documents(path), near, strict=True):
        if not out:
            messages = tuple(json.loads(row["messages"])) if row["messages"] else ()
            writer.add(Document(row["document"], row["text"], messages, row.get("source")), row["digest"])
    writer.close({key: value for key, value in kept.items() if key not in ("documents", "bytes", "fingerprint")})
    os.replace(part, path)
