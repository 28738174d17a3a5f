"""What a model writes once its source was attacked: the fall of the output itself.

Attacks raise the loss of the reference; whether the output gets worse is another question. For each
document the model writes from the clean source and from the attacked one, whose ids go in as they
are (decoding and encoding again would undo flips). Both outputs are scored against the reference, and the second
against the first, which asks nothing of the reference.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isotone import models
from isotone.attacks.documents import Document, read_manifest
from isotone.config.evaluation import GenerateJob
from isotone.data.blocks import TokenSplit
from isotone.errors import ConfigurationError, InputOutputError
from isotone.evaluation.generation import Writer, Written
from isotone.evaluation.generation_job import CHUNK, pair_texts
from isotone.evaluation.journal import Journal
from isotone.evaluation.overlap import SCORES, overlap
from isotone.progress import Progress
from isotone.records import Json, file_digest, folder_digest, read_rows, write_marker, write_rows
from isotone.schema import as_mapping

ROWS, COST = "generation_after/1", "generation_after_cost/1"


def source_of(ids: np.ndarray, eos: int) -> np.ndarray:
    """The source of ``source EOS target EOS``, its EOS included."""
    return ids[: int(np.flatnonzero(ids == eos)[0]) + 1]


def attacked_source(document: Document, row: Mapping[str, Any], eos: int) -> np.ndarray:
    """A document's source with the flips of its row.

    Raises:
        InputOutputError: if the row belongs to another text.
    """
    source = source_of(document.ids, eos).copy()
    for flip in row["flips"]:
        place = flip["position"]
        if not place < len(source) - 1 or source[place] != flip["old"]:
            raise InputOutputError(
                f'The attack row of document "{document.name}" changes a token that does not stand in its source. Delete the rows and '
                "run the attack again."
            )
        source[place] = flip["new"]
    return source


def row_of(document: str, clean: tuple[str, Written], attacked: tuple[str, Written], reference: str) -> Json:
    """One row of schema ``generation_after/1``."""
    (before, written), (after, rewritten) = clean, attacked
    scores = {"clean": overlap(before, reference), "attacked": overlap(after, reference), "own": overlap(after, before)}
    return {
        "document": document,
        "clean_output": before,
        "attacked_output": after,
        "changed": before != after,
        "clean_capped": written.capped,
        "attacked_capped": rewritten.capped,
        **{f"{what}_{key}": value for what, found in scores.items() for key, value in found.items()},
    }


def summary(rows: Sequence[Json]) -> Json:
    """Plain means over documents."""
    keys = [f"{what}_{key}" for what in ("clean", "attacked", "own") for key in SCORES]
    return {key: sum(row[key] for row in rows) / len(rows) for key in [*keys, "changed"]} | {"documents": len(rows)}


def after_attack(
    job: GenerateJob,
    model: Path,
    shared: Path,
    attack: Path,
    variant: str,
    split_folder: Path,
    documents: Path,
    rows: Path,
    cost: Path,
    marker: Path,
) -> None:
    """Write from clean and attacked sources, and keep rows, seconds and, last, the marker.

    Args:
        shared: folder of the attack documents.
        attack: rows of schema ``attack/1``.
        variant: the form of the attack.
        split_folder, documents: the split that they were drawn from, and its texts.

    Raises:
        ConfigurationError: if the documents are texts and no pairs, or the attack has no rows of this form.
        InputOutputError: rows of other documents.
    """
    from isotone import devices

    start = time.perf_counter()
    manifest = read_manifest(shared)
    eos = manifest.eos
    if eos is None:
        raise ConfigurationError(f"{shared} holds texts, not pairs. Set data.task: pairs.")
    found = {row["document"]: row for row in read_rows(attack, "attack/1") if row["variant"] == variant}
    if set(found) != {document.name for document in manifest.test}:
        raise InputOutputError(
            f"{attack} has rows of form {variant} for {len(found)} documents, which are not the {len(manifest.test)} of {shared}. "
            "Delete the rows and run the attack again."
        )
    texts = pair_texts(documents, TokenSplit.open(split_folder))
    inputs = {
        "model": folder_digest(model, "*.safetensors"),
        "documents": manifest.digest,
        "attack": file_digest(attack),
    }
    settings = {**as_mapping(job), "variant": variant}
    journal = Journal(rows, {"settings": settings, "inputs": inputs})
    writer = Writer(models.load_model(model, device=devices.choose()), job.generation)
    tokenizer = models.load_tokenizer(model)

    def outputs(sources: list[np.ndarray]) -> list[tuple[str, Written]]:
        return [(writer.text(tokenizer, written), written) for written in writer.write(sources)]

    def written(chunk: Sequence[Document]) -> list[Json]:
        before = outputs([source_of(document.ids, eos) for document in chunk])
        after = outputs([attacked_source(document, found[document.name], eos) for document in chunk])
        return [
            row_of(document.name, clean, attacked, texts[document.name][1])
            for document, clean, attacked in zip(chunk, before, after, strict=True)
        ]

    made: list[Json] = []
    costs: list[Json] = []
    with Progress("generation after attack", len(manifest.test)) as progress:
        for new, seconds in journal.in_chunks(manifest.test, CHUNK, written, progress):
            made += new
            costs += [{"document": row["document"], "seconds": seconds} for row in new]
    write_rows(rows, ROWS, made)
    write_rows(cost, COST, costs)
    write_marker(
        marker,
        "generate_after",
        settings=settings,
        inputs=inputs,
        outputs={"rows": file_digest(rows)},
        result=summary(made),
        cost={"seconds": round(time.perf_counter() - start, 2)},
    )
    journal.close()
