"""The job of `scripts/order_preservation.py`: generate, read, fit, write."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isotone import models
from isotone.config.evaluation import OrderJob
from isotone.errors import ConfigurationError
from isotone.evaluation import graded
from isotone.evaluation import order_preservation as order
from isotone.records import file_digest, folder_digest, write_marker, write_rows
from isotone.schema import as_mapping


def _reader(model: Any, tokenizer: Any, job: OrderJob) -> tuple[Callable[[str], list[int]], int]:
    """How a sentence becomes what the model reads, and how many tokens stand in front of it."""
    if model.config.is_encoder_decoder:
        front = tokenizer.encode(job.prefix.rstrip(), add_special_tokens=False)
        return lambda sentence: [
            *tokenizer.encode(job.prefix + sentence, add_special_tokens=False),
            tokenizer.eos_token_id,
        ], len(front)
    prefix = models.prefix_token(tokenizer, job.document_start)
    start = [] if prefix is None else [prefix]
    return lambda sentence: [*start, *tokenizer.encode(sentence, add_special_tokens=False)], len(start)


def order_preservation(job: OrderJob, folder: Path, rows: Path, marker: Path) -> None:
    """Measure one model and write rows and, last, the marker.

    Raises:
        ConfigurationError: if no pair of sentences has equal length under the tokenizer.
    """
    from isotone import devices

    start = time.perf_counter()
    device = devices.choose()
    model, tokenizer = models.load_model(folder, device=device), models.load_tokenizer(folder)
    ids_of, front = _reader(model, tokenizer, job)
    settings = job.order
    chains = graded.chains(settings.axes, settings.seed, lambda sentence: len(ids_of(sentence)))
    sentences = [ids_of(sentence) for chain in chains for sentence in chain.sentences]
    states = order.sentence_states(model, sentences, front=front)
    made = order.rows_of(chains, states, settings)
    if not made:
        raise ConfigurationError(
            f"{folder}: no two graded sentences have the same number of tokens, so no order can be compared. "
            "Use a tokenizer with larger tokens, or set order_preservation.run to false."
        )
    write_rows(rows, "order/1", made)
    write_marker(
        marker,
        "order_preservation",
        settings=as_mapping(job),
        inputs={"model": folder_digest(folder, "*.safetensors")},
        outputs={"rows": file_digest(rows)},
        result=order.summary(chains, made),
        cost={"seconds": round(time.perf_counter() - start, 2)},
    )
