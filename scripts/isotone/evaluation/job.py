"""The job of `scripts/perplexity.py`: read, score, write."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path

from isotone import models
from isotone.config.evaluation import PerplexityJob
from isotone.data.blocks import TokenSplit
from isotone.errors import ConfigurationError
from isotone.evaluation import pairs
from isotone.evaluation import perplexity as protocols
from isotone.evaluation.journal import Journal
from isotone.evaluation.scoring import Scorer
from isotone.progress import Progress
from isotone.records import Json, file_digest, folder_digest, write_marker, write_rows
from isotone.schema import as_mapping

ROWS, COST = "perplexity/1", "perplexity_cost/1"
CHUNK = 64  # documents that are scored together, and lost together by a kill


def check_texts(split: TokenSplit, documents: Path) -> None:
    """Insist that the split was made from these documents: same names, same bytes.

    Raises:
        ConfigurationError: names the first document that differs.
    """
    import pandas as pd

    texts = pd.read_parquet(documents, columns=["document", "text"])
    sizes = {str(name): len(text.encode()) for name, text in zip(texts["document"], texts["text"], strict=True)}
    for name, size in zip(split.documents["document"], split.documents["bytes"], strict=True):
        if sizes.get(str(name)) != size:
            raise ConfigurationError(
                f'{split.folder}: document "{name}" has {size} bytes, but {documents} has {sizes.get(str(name))}. '
                "bits_per_byte would be wrong; tokenize the split again."
            )


def rows_of(scorer: Scorer, job: PerplexityJob, split: TokenSplit, protocol: str, indices: Sequence[int]) -> list[Json]:
    """Rows of schema ``perplexity/1`` for some documents of a split.

    Raises:
        ConfigurationError: if a document is empty or its loss is not a number.
    """
    if isinstance(scorer, pairs.PairScorer):
        return pairs.rows_of(scorer, split, protocol, indices)
    settings, table = job.perplexity, split.documents
    names = [str(table["document"].iloc[index]) for index in indices]
    windows = []
    for name, index in zip(names, indices, strict=True):
        ids = split.text_ids(index)
        if not len(ids):
            raise ConfigurationError(f'{split.folder}: document "{name}" is empty. Remove it from the data.')
        windows.append(
            protocols.windows_of(
                protocol,
                ids,
                length=settings.length,
                stride=settings.stride,
                window=job.window,
                prefix=scorer.prefix,
            )
        )
    return [
        {
            "protocol": protocol,
            "document": name,
            "tokens": tokens,
            "bytes": int(table["bytes"].iloc[index]),
            "words": int(table["words"].iloc[index]),
            "nll": nll,
            "excluded": tokens == 0,
        }
        for name, index, (tokens, nll) in zip(names, indices, protocols.score(scorer, names, windows), strict=True)
    ]


def perplexity(
    job: PerplexityJob, model: Path, split_folder: Path, documents: Path, rows: Path, cost: Path, marker: Path
) -> None:
    """Score one model under every protocol and write rows, seconds and, last, the marker."""
    from isotone import devices

    start = time.perf_counter()
    split = TokenSplit.open(split_folder)
    check_texts(split, documents)
    inputs = {"model": folder_digest(model, "*.safetensors"), "split": split.fingerprint}
    settings = as_mapping(job)
    journal = Journal(rows, {"settings": settings, "inputs": inputs})
    device = devices.choose()
    scorer = pairs.open_scorer(
        models.load_model(model, device=device), models.load_tokenizer(model), job.document_start
    )
    indices = sorted(split.drawn(job.perplexity.documents))
    made: list[Json] = []
    costs: list[Json] = []
    with Progress("perplexity", len(indices) * len(job.perplexity.protocols)) as progress:
        for protocol in job.perplexity.protocols:
            work = functools.partial(rows_of, scorer, job, split, protocol)
            for found, seconds in journal.in_chunks(indices, CHUNK, work, progress, name=protocol):
                made += found
                costs += [{"protocol": protocol, "document": row["document"], "seconds": seconds} for row in found]
    write_rows(rows, ROWS, made)
    write_rows(cost, COST, costs)
    result = {
        protocol: protocols.summary([row for row in made if row["protocol"] == protocol], protocol)
        for protocol in job.perplexity.protocols
    }
    write_marker(
        marker,
        "perplexity",
        settings=settings,
        inputs=inputs,
        outputs={"rows": file_digest(rows)},
        result=result,
        cost={"seconds": round(time.perf_counter() - start, 2)},
    )
    journal.close()
