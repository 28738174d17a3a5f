"""Tokenising pairs: what is too long, what is all prefix, and the two streams that are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from isotone.config.data import Pairs
from isotone.data.document import Troubles
from isotone.data.encoder import Splitter
from isotone.data.part import BATCH, COLUMNS, Part, warm_encoder
from isotone.errors import ConfigurationError
from isotone.records import read_json, whole_file, write_json
from isotone.schema import as_mapping

SOURCES = ["source_start", "source_length", "source_prefix"]  # columns of pairs; the prefix in tokens


def _encoded_pairs(
    part: Part, settings: Pairs, rows: list[dict[str, Any]], troubles: Troubles, shortened: Troubles
) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray, int]]:
    """Rows with the ids of target and source, and the tokens of the source's prefix; what is too long is cut or left out."""
    tokenizer = warm_encoder(part.folder)
    front = len(settings.prefix.rstrip())
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        targets = tokenizer.encode_batch_fast([row["text"] for row in batch], add_special_tokens=False)
        sources = tokenizer.encode_batch([settings.prefix + row["source"] for row in batch], add_special_tokens=False)
        for row, target, source in zip(batch, targets, sources, strict=True):
            prefix = sum(begin < front for begin, _ in source.offsets)
            target_ids, source_ids = target.ids[: settings.max_target - 1], source.ids[: settings.max_source - 1]
            if len(source_ids) <= prefix:
                kind = "source_without_tokens" if len(source.ids) <= prefix else "source_all_prefix"
                troubles.add(kind, row["document"])
                continue
            long = [
                side
                for side, cut, whole in (("target", target_ids, target.ids), ("source", source_ids, source.ids))
                if len(cut) < len(whole)
            ]
            for side in long:
                (shortened if settings.too_long == "cut" else troubles).add(f"{side}_too_long", row["document"])
            if long and settings.too_long == "leave_out":
                continue
            yield row, np.asarray(target_ids, part.dtype), np.asarray([*source_ids, part.eos], part.dtype), prefix


def tokenise_pairs(part: Part, settings: Pairs) -> int:
    """As `tokenise_part`, for pairs."""
    with pq.ParquetFile(part.documents) as file:
        rows = file.read_row_group(part.group).to_pylist()
    troubles, cut = Troubles(), Troubles()
    position = behind = 0
    table: list[list[Any]] = []
    eos = np.asarray([part.eos], part.dtype)
    with (
        whole_file(part.stem.with_suffix(".bin"), "wb") as targets,
        whole_file(part.stem.with_suffix(".sources"), "wb") as sources,
    ):
        for row, target, source, prefix in _encoded_pairs(part, settings, rows, troubles, cut):
            if not len(target):
                troubles.add("no_tokens", row["document"])
                continue
            targets.write(target.tobytes() + eos.tobytes())
            sources.write(source.tobytes())
            words = len(row["text"].split())
            table.append([row["document"], position, len(target), row["bytes"], words, behind, len(source), prefix])
            position, behind = position + len(target) + 1, behind + len(source)
    with whole_file(part.stem.with_suffix(".parquet"), "wb") as file:
        pd.DataFrame(table, columns=[*COLUMNS, *SOURCES]).to_parquet(file, index=False)
    facts = {"documents": len(table), "tokens": position, "source_tokens": behind}
    write_json(part.stem.with_suffix(".json"), {**facts, "left_out": troubles.result(), "cut": cut.result()})
    return len(rows)


def facts_of_pairs(pairs: Pairs, folder: Path) -> dict[str, Any]:
    """What ``data.json`` says of pairs; the model beside the tokenizer knows with which token a decoder starts.

    Raises:
        ConfigurationError: if it does not.
    """
    start = read_json(folder / "config.json").get("decoder_start_token_id")
    if start is None:
        raise ConfigurationError(f"{folder}/config.json names no decoder_start_token_id, with which a target begins.")
    return {"task": "pairs", "pairs": as_mapping(pairs), "start": int(start)}


def insist_on_room(splitter: Splitter, pairs: Pairs) -> None:
    """The prefix leaves room for a source.

    Raises:
        ConfigurationError: if it does not.
    """
    from tokenizers import Tokenizer

    prefix = len(Tokenizer.from_str(splitter.backend).encode(pairs.prefix, add_special_tokens=False).ids)
    if prefix + 2 > pairs.max_source:
        raise ConfigurationError(
            f"data.pairs.prefix has {prefix} tokens, and data.pairs.max_source is {pairs.max_source}: a source would be all prefix. "
            "Raise max_source, or shorten the prefix."
        )
