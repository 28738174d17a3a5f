"""The job of `scripts/generate.py`: read the sources, write, compare with the references, keep the rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isotone import models
from isotone.config.evaluation import GenerateJob
from isotone.data.blocks import TokenSplit
from isotone.errors import ConfigurationError
from isotone.evaluation.generation import Writer
from isotone.evaluation.journal import Journal
from isotone.evaluation.overlap import SCORES, lead, overlap, readable
from isotone.progress import Progress
from isotone.records import Json, file_digest, folder_digest, write_marker, write_rows
from isotone.schema import as_mapping

ROWS, COST = "generation/1", "generation_cost/1"
CHUNK = 32  # documents that are written for together, and lost together by a kill
SYSTEMS = ("model", "copy", "lead")


def pair_texts(documents: Path, split: TokenSplit) -> dict[str, tuple[str, str]]:
    """Source and reference of every document, by name, as they were before tokenisation.

    Raises:
        ConfigurationError: if the split was made from other documents.
    """
    import pandas as pd

    table = pd.read_parquet(documents, columns=["document", "source", "text"])
    found = {str(name): (source, text) for name, source, text in table.itertuples(index=False)}
    for name, size in zip(split.documents["document"], split.documents["bytes"], strict=True):
        if str(name) not in found or len(found[str(name)][1].encode()) != size:
            raise ConfigurationError(
                f'{split.folder}: document "{name}" is not the one of that name in {documents}, so outputs would be compared with '
                "the wrong reference. Tokenize the split again."
            )
    return found


def scored(system: str, document: str, output: str, reference: str) -> Json:
    """One row of schema ``generation/1`` without what only a model has."""
    return {
        "system": system,
        "document": document,
        "output": output,
        "words": len(output.split()),
        "reference_words": len(reference.split()),
        "readable": readable(reference),
        **overlap(output, reference),
    }


def rows_of(
    writer: Writer,
    tokenizer: Any,
    names: Sequence[str],
    sources: Sequence[np.ndarray],
    texts: Sequence[tuple[str, str]],
    first: int,
) -> list[Json]:
    """Rows of schema ``generation/1``: the model's output for each document, and what copying and the lead give.

    Args:
        sources: ids with prefix and EOS.
        texts: source and reference of each.
        first: sentences of the lead.
    """  # fmt: skip
    rows = []
    for name, written, (source, reference) in zip(names, writer.write(sources), texts, strict=True):
        output = writer.text(tokenizer, written)
        rows.append(
            scored("model", name, output, reference)
            | {"tokens": len(written.ids), "capped": written.capped, "ids": written.ids.tolist()}
        )
        rows += [scored("copy", name, source, reference), scored("lead", name, lead(source, first), reference)]
    return rows


def summary(rows: Sequence[Json]) -> Json:
    """Plain means over documents, by system."""
    result: Json = {}
    for system in SYSTEMS:
        members = [row for row in rows if row["system"] == system]
        result[system] = {key: sum(row[key] for row in members) / len(members) for key in SCORES} | {
            "documents": len(members),
            "length_ratio": sum(row["words"] for row in members) / sum(row["reference_words"] for row in members),
            "unreadable": sum(not row["readable"] for row in members),
        }
    own = [row for row in rows if row["system"] == "model"]
    result["model"] |= {
        "capped": sum(row["capped"] for row in own) / len(own),
        "tokens": sum(row["tokens"] for row in own) / len(own),
        "empty": sum(not row["output"] for row in own),
    }
    return result


def generate(
    job: GenerateJob, model: Path, split_folder: Path, documents: Path, rows: Path, cost: Path, marker: Path
) -> None:
    """Write for one model and keep rows, seconds and, last, the marker."""
    from isotone import devices

    start = time.perf_counter()
    split = TokenSplit.open(split_folder)
    texts = pair_texts(documents, split)
    inputs = {"model": folder_digest(model, "*.safetensors"), "split": split.fingerprint}
    settings = as_mapping(job)
    journal = Journal(rows, {"settings": settings, "inputs": inputs})
    writer = Writer(models.load_model(model, device=devices.choose()), job.generation)
    tokenizer = models.load_tokenizer(model)
    indices = sorted(split.drawn(job.generation.documents))

    def written(chunk: Sequence[int]) -> list[Json]:
        names = [str(split.documents["document"].iloc[index]) for index in chunk]
        sources = [split.pair(index)[0] for index in chunk]
        return rows_of(writer, tokenizer, names, sources, [texts[name] for name in names], job.generation.lead)

    made: list[Json] = []
    costs: list[Json] = []
    with Progress("generation", len(indices)) as progress:
        for found, seconds in journal.in_chunks(indices, CHUNK, written, progress):
            made += found
            costs += [{"document": row["document"], "seconds": seconds} for row in found if row["system"] == "model"]
    write_rows(rows, ROWS, made)
    write_rows(cost, COST, costs)
    write_marker(
        marker,
        "generate",
        settings=settings,
        inputs=inputs,
        outputs={"rows": file_digest(rows)},
        result=summary(made),
        cost={"seconds": round(time.perf_counter() - start, 2)},
    )
    journal.close()
