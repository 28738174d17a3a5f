"""Rows of what models wrote: every number checked, every document once, the same texts behind every run.

Shape suffixes: N = documents of one file, sorted by name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isotone.errors import InputOutputError
from isotone.reporting.evidence.rows import insist_once, number_of, stream_rows

SCORES = ("rouge1", "rouge2", "rougeL", "rougeLsum", "chrf")
LENGTHS = ("words", "reference_words")
OF_A_MODEL = ("tokens", "capped")
AFTER = tuple(f"{what}_{key}" for what in ("clean", "attacked", "own") for key in SCORES)


@dataclass
class AfterRows:
    """What one model wrote for clean and for attacked sources.

    Attributes:
        columns: scores of both outputs against the reference, of the second against the first (``own_...``), and whether
            they differ (``changed``), array_N.
    """

    documents: list[str]
    columns: dict[str, np.ndarray]
    digest: str


@dataclass
class WrittenRows:
    """Outputs of one system (a model, copying, the lead), one per document.

    Attributes:
        columns: scores, words of output and reference and, of a model, tokens and whether the limit ended it, array_N.
        unreadable: references without a word that ROUGE reads.
    """

    documents: list[str]
    columns: dict[str, np.ndarray]
    unreadable: int
    digest: str


def read_written(path: Path) -> dict[str, WrittenRows]:
    """One file of outputs, by system.

    Raises:
        InputOutputError: damaged line, a number that is none, a document that stands twice, or no rows of a model.
    """
    gathered: dict[str, list[dict[str, Any]]] = {}
    digest = hashlib.sha256()
    for number, row, line in stream_rows(path, "generation/1"):
        digest.update(line)
        keys = [*SCORES, *LENGTHS, *(["tokens"] if row["system"] == "model" else [])]
        kept: dict[str, Any] = {key: number_of(row, key, path, number) for key in keys}
        kept |= {"document": str(row["document"]), "readable": row["readable"], "capped": bool(row.get("capped"))}
        gathered.setdefault(str(row["system"]), []).append(kept)
    if "model" not in gathered:
        raise InputOutputError(f"{path} holds no output of a model. Delete the file and run its step again.")
    return {system: _table(rows, path, system, digest.hexdigest()) for system, rows in gathered.items()}


def _table(rows: list[dict[str, Any]], path: Path, system: str, digest: str) -> WrittenRows:
    rows.sort(key=lambda row: row["document"])
    documents = [row["document"] for row in rows]
    insist_once(documents, path, system)
    keys = [*SCORES, *LENGTHS, *(OF_A_MODEL if system == "model" else ())]
    columns = {key: np.array([row[key] for row in rows], np.float64) for key in keys}
    return WrittenRows(documents, columns, sum(not row["readable"] for row in rows), digest)


def read_after(path: Path) -> AfterRows:
    """One file of outputs after an attack.

    Raises:
        InputOutputError: damaged line, a number that is none, a document that stands twice, or no rows.
    """
    rows: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    for number, row, line in stream_rows(path, "generation_after/1"):
        digest.update(line)
        kept: dict[str, Any] = {key: number_of(row, key, path, number) for key in AFTER}
        rows.append({**kept, "document": str(row["document"]), "changed": bool(row["changed"])})
    if not rows:
        raise InputOutputError(f"{path} has no rows. Delete it and run its step again.")
    rows.sort(key=lambda row: row["document"])
    documents = [row["document"] for row in rows]
    insist_once(documents, path, "outputs")
    columns = {key: np.array([row[key] for row in rows], np.float64) for key in (*AFTER, "changed")}
    return AfterRows(documents, columns, digest.hexdigest())
