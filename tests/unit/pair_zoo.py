"""Small studies of pairs: documents, a tokenizer, a split and a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from isotone.data.batch import Batch
from isotone.data.pairs import padded

VOCABULARY, START, EOS = 64, 0, 1


def random_pairs(
    count: int, seed: int = 0, *, shortest: int = 3, longest: int = 9
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sources and targets of random lengths; a target copies some of its source's tokens. Both end with EOS."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        source = rng.integers(2, VOCABULARY, rng.integers(shortest, longest))
        target = (source[: rng.integers(2, len(source) + 1)] + 1) % VOCABULARY
        target[target < 2] = 2
        found.append((np.append(source, EOS), np.append(target, EOS)))
    return found


def write_pairs(
    folder: Path, pairs: list[tuple[np.ndarray, np.ndarray]], *, longest: int = 10, prefix: int = 0
) -> None:
    """A tokenised split of pairs, laid out as the tokenisation step does."""
    folder.mkdir(parents=True)
    sources, targets = ([pair[side] for pair in pairs] for side in (0, 1))
    np.concatenate(targets).astype(np.uint16).tofile(folder / "tokens.bin")
    np.concatenate(sources).astype(np.uint16).tofile(folder / "sources.bin")
    sizes = [np.array([len(ids) for ids in side]) for side in (sources, targets)]
    begins = [np.concatenate([[0], np.cumsum(size)[:-1]]) for size in sizes]
    table: dict[str, Any] = {
        "document": [f"pair {index}" for index in range(len(pairs))],
        "start": begins[1],
        "length": sizes[1] - 1,
    }
    table |= {
        "bytes": sizes[1] * 3,
        "words": sizes[1] - 1,
        "source_start": begins[0],
        "source_length": sizes[0],
        "source_prefix": prefix,
    }
    pd.DataFrame(table).to_parquet(folder / "documents.parquet")
    info = {
        "task": "pairs", "pairs": {"prefix": "", "max_source": longest, "max_target": longest}, "start": START, "dtype": "uint16",
        "tokens": int(sizes[1].sum()), "source_tokens": int(sizes[0].sum()), "documents": len(pairs),
        "fingerprint": f"pairs of {len(pairs)}", "bos": None, "eos": EOS, "document_start": "bos",
    }  # fmt: skip
    (folder / "data.json").write_text(json.dumps(info))


def alone(pair: tuple[np.ndarray, np.ndarray]) -> Batch:
    """A pair in a batch of its own, without masks."""
    batch = padded([pair], START)
    return Batch(batch.inputs_BT, batch.targets_BT, batch.source_BS)
