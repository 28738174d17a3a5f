"""From documents to memory-mapped tokens: parallel, resumable, in constant memory.

On disk a split is ``tokens.bin`` (uint16 or uint32), ``documents.parquet`` (where
each text stands), for partly scored chats ``scored.bin`` (uint8 per token), and
last ``data.json``. Documents follow each other as ``[BOS if distinct] text EOS``. Of pairs
this is the stream of targets, without BOS; sources lie beside it in ``sources.bin``, each as
``prefix source EOS``.

The work is cut along the row groups of the documents file. Each group becomes a
part, written whole, in a folder beside the result whose name is a digest of
everything that matters; a killed run finds its parts again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from isotone.config.data import Tokens
from isotone.data.blocks import TokenSplit
from isotone.data.document import Troubles
from isotone.data.encoder import Splitter
from isotone.data.pair_part import SOURCES, facts_of_pairs, insist_on_room, tokenise_pairs
from isotone.data.part import BATCH, COLUMNS, Part, warm_encoder
from isotone.data.splits import facts_of
from isotone.errors import ConfigurationError
from isotone.progress import Progress
from isotone.records import digest_of, file_digest, read_json, whole_file, whole_folder, write_json
from isotone.schema import as_mapping


def _encoded(
    part: Part, rows: list[dict[str, Any]], troubles: Troubles
) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray | None]]:
    """Rows with their text ids and, for partly scored chats, their masks."""
    if any(row["messages"] for row in rows):
        from isotone.data.readers.chat import encode_chat
        from isotone.data.tokenizer import load_tokenizer

        chat_tokenizer = load_tokenizer(Path(part.tokenizer))
        for row in rows:
            try:
                encoded = encode_chat(chat_tokenizer, json.loads(row["messages"]), part.score)
            except ValueError:
                troubles.add("refused_by_template", row["document"])
                continue
            if encoded is None:
                troubles.add("special_token_in_text", row["document"])
                continue
            ids, scored = encoded
            yield row, np.asarray(ids, part.dtype), np.asarray(scored, np.uint8)
        return
    tokenizer = warm_encoder(part.folder)
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        for row, encoding in zip(
            batch, tokenizer.encode_batch_fast([row["text"] for row in batch], add_special_tokens=False), strict=True
        ):
            yield row, np.asarray(encoding.ids, part.dtype), None


def tokenise_part(part: Part) -> int:
    """Tokenise one row group and write its files, the JSON last; returns its documents."""
    if part.pairs is not None:
        return tokenise_pairs(part, part.pairs)
    with pq.ParquetFile(part.documents) as file:
        rows = file.read_row_group(part.group).to_pylist()
    troubles = Troubles()
    position = 0
    table: list[list[Any]] = []
    masked = part.score == "assistant"
    tokens, masks = [], []
    eos = np.asarray([part.eos], part.dtype)
    bos = np.asarray([part.bos], part.dtype) if part.bos is not None else eos[:0]
    for row, ids, scored in _encoded(part, rows, troubles):
        if not len(ids):
            troubles.add("no_tokens", row["document"])
            continue
        tokens += [bos, ids, eos]
        if masked:
            scored = np.ones(len(ids), np.uint8) if scored is None else scored
            masks += [np.zeros(len(bos), np.uint8), scored, np.zeros(1, np.uint8)]
        table.append([row["document"], position + len(bos), len(ids), row["bytes"], len(row["text"].split())])
        position += len(bos) + len(ids) + 1
    with whole_file(part.stem.with_suffix(".bin"), "wb") as file:
        for array in tokens:
            file.write(array.tobytes())
    if masked:
        with whole_file(part.stem.with_suffix(".scored"), "wb") as file:
            for array in masks:
                file.write(array.tobytes())
    with whole_file(part.stem.with_suffix(".parquet"), "wb") as file:
        pd.DataFrame(table, columns=COLUMNS).to_parquet(file, index=False)
    write_json(
        part.stem.with_suffix(".json"),
        {"documents": len(table), "tokens": position, "left_out": troubles.result()},
    )
    return len(rows)


def _run(parts: list[Part], processes: int, total: int, done: int) -> None:
    todo = [part for part in parts if not part.stem.with_suffix(".json").exists()]
    with Progress("tokenise", total) as progress:
        progress.done = done
        if processes <= 1 or len(todo) <= 1:
            for part in todo:
                progress.add(tokenise_part(part))
            return
        workers = min(processes, len(todo))
        # spawn, not fork: the tokenizer's threads do not survive a fork
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for future in as_completed([pool.submit(tokenise_part, part) for part in todo]):
                progress.add(future.result())


def _copy(source: Path, sink: Any, hasher: Any) -> None:
    with open(source, "rb") as file:
        while chunk := file.read(1 << 22):
            sink.write(chunk)
            hasher.update(chunk)


def _merge(parts: list[Part], out: Path, masked: bool) -> dict[str, Any]:
    """Join the parts in order; returns totals, counts of bad input and the fingerprint."""
    hasher = hashlib.sha256()
    tables, position, behind = [], 0, 0
    counted: dict[str, dict[str, dict[str, Any]]] = {"left_out": {}, "cut": {}}
    with open(out / "tokens.bin", "wb") as sink:
        for part in parts:
            _copy(part.stem.with_suffix(".bin"), sink, hasher)
            facts = read_json(part.stem.with_suffix(".json"))
            table = pd.read_parquet(part.stem.with_suffix(".parquet"))
            table = table.assign(start=table["start"] + position)
            if "source_tokens" in facts:
                table = table.assign(source_start=table["source_start"] + behind)
                behind += facts["source_tokens"]
            tables.append(table)
            position += facts["tokens"]
            for what, kinds in counted.items():
                for kind, entry in facts.get(what, {}).items():
                    known = kinds.setdefault(kind, {"count": 0, "first": entry["first"]})
                    known["count"] += entry["count"]
    scored = 0
    if masked:
        with open(out / "scored.bin", "wb") as sink:
            for part in parts:
                _copy(part.stem.with_suffix(".scored"), sink, hasher)
                scored += int(np.fromfile(part.stem.with_suffix(".scored"), np.uint8).sum())
    if behind:
        with open(out / "sources.bin", "wb") as sink:
            for part in parts:
                _copy(part.stem.with_suffix(".sources"), sink, hasher)
    documents = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    documents.to_parquet(out / "documents.parquet", index=False)
    borders = ["start", "length", *(SOURCES if behind else [])]
    hasher.update(documents[borders].to_numpy(np.int64).tobytes())
    return {
        "tokens": position,
        "documents": len(documents),
        "text_tokens": int(documents["length"].sum()),
        "bytes": int(documents["bytes"].sum()),
        "words": int(documents["words"].sum()),
        "scored_tokens": scored if masked else position,
        **({"source_tokens": behind, "cut": counted["cut"]} if behind else {}),
        "left_out": counted["left_out"],
        "fingerprint": hasher.hexdigest(),
    }


def _insist_on_long_ones(split: TokenSplit, documents: Path, settings: Tokens) -> None:
    """Before anything is trained: each protocol that will score this split has a document that is long enough.

    Raises:
        ConfigurationError: names the protocols that have none.
    """
    longest = int(split.documents["length"].iloc[split.drawn(settings.scored)].max())
    short = {protocol: tokens for protocol, tokens in settings.needs.items() if tokens > longest}
    if short:
        wanted = ", ".join(f"{protocol} ({tokens})" for protocol, tokens in short.items())
        fitting = [protocol for protocol in settings.needs if protocol not in short]
        others = (
            f"leave them out (perplexity.protocols: [{', '.join(fitting)}])" if fitting else "take longer documents"
        )
        raise ConfigurationError(
            f"{documents}: the longest document that is scored has {longest} tokens, fewer than these perplexity protocols "
            f"need: {wanted}. Lower perplexity.length, or {others}."
        )


def tokenise(
    documents: Path, tokenizer_folder: Path, out: Path, settings: Tokens, processes: int = 1
) -> dict[str, Any]:
    """Tokenise one documents file into the folder ``out``.

    The result does not depend on ``processes`` nor on interruptions.

    Returns:
        What ``data.json`` says.

    Raises:
        ConfigurationError: if no document gives tokens.
    """
    splitter = Splitter.open(tokenizer_folder)
    if settings.pairs:
        insist_on_room(splitter, settings.pairs)
    origin = facts_of(documents)
    distinct = settings.document_start == "bos" and splitter.bos is not None and splitter.bos != splitter.eos
    distinct = distinct and settings.pairs is None  # a decoder starts with a token of its own
    dtype = "uint16" if splitter.vocabulary <= 1 << 16 else "uint32"
    identity = {
        "documents": origin["fingerprint"],
        "file": file_digest(documents),
        "tokenizer": hashlib.sha256(splitter.backend.encode()).hexdigest(),
        "template": splitter.template,
        "bos": splitter.bos if distinct else None,
        "eos": splitter.eos,
        "score": settings.score,
        **({"pairs": as_mapping(settings.pairs)} if settings.pairs else {}),
    }
    work = out.with_name(f".{out.name}.parts-{digest_of(identity)[:16]}")
    for stale in out.parent.glob(f".{out.name}.parts-*"):
        if stale != work:
            shutil.rmtree(stale, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    with whole_file(work / "tokenizer.json") as file:
        file.write(splitter.backend)
    groups = pq.ParquetFile(documents).metadata
    parts = [
        Part(
            documents=os.fspath(documents),
            group=group,
            folder=os.fspath(work),
            tokenizer=os.fspath(tokenizer_folder),
            bos=identity["bos"],
            eos=splitter.eos,
            dtype=dtype,
            score=settings.score,
            pairs=settings.pairs,
        )
        for group in range(groups.num_row_groups)
    ]
    finished = [part for part in parts if part.stem.with_suffix(".json").exists()]
    _run(parts, processes, groups.num_rows, sum(groups.row_group(part.group).num_rows for part in finished))
    masked = settings.score == "assistant"
    with whole_folder(out) as folder:
        info = _merge(parts, folder, masked) | {
            "schema": "data/1",
            "dtype": dtype,
            "vocabulary": splitter.vocabulary,
            "document_start": settings.document_start,
            "score": settings.score,
            **(facts_of_pairs(settings.pairs, tokenizer_folder) if settings.pairs else {}),
            "bos": splitter.bos,
            "eos": splitter.eos,
            "tokenizer": identity["tokenizer"],
            "origin": origin,
        }
        # A split is another one when its tokens, its borders or its tokenizer are.
        info["fingerprint"] = digest_of([info["fingerprint"], info["tokenizer"], dtype])
        if not info["documents"]:
            raise ConfigurationError(
                f"{documents}: no document gives any token. Look at its left_out counts and data.column."
            )
        write_json(folder / "data.json", info)
        _insist_on_long_ones(TokenSplit.open(folder), documents, settings)
    shutil.rmtree(work, ignore_errors=True)
    return info
