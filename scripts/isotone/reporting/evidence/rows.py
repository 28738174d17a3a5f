"""Row files as columns: one pass, every number checked, every set of documents known.

Shape suffixes: N = documents of one file, sorted by name; K = flips + 1.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from isotone.errors import ConfigurationError, InputOutputError

MEASURES = (
    "J",
    "self",
    "total",
    "clean_nll",
    "tokens",
    "top1_agreement",
    "kl",
    "published_degradation",
    "proposal_correlation",
)
REQUIRED = ("J", "clean_nll", "tokens")
# Derived here, per changed token: no window and, where recalibrated (`_cal`), no temperature moves them.
DERIVED = (
    "damage",
    "near",
    "far",
    "changed_predictions",
    "accuracy_lost",
    "J_cal",
    "damage_cal",
    "near_cal",
    "far_cal",
)
NEAR = 5  # tokens behind a change that count as near


@dataclass
class AttackRows:
    """One attack in one form on one run.

    Attributes:
        columns: measure name to array_N; a measure that some row lacks is left out; see `DERIVED`.
        curve_NK: J at each point of the budget, or None; a document whose attack
            ended early keeps its last value.
        flips_K: changed tokens at each of these points.
        compute_ND: J of each document once its search had spent fewer than ``passes_D`` forward passes, each twice the
            one before, or None; 0 before its first step, and its last value once it has ended.
        ceiling: where a ceiling of forward passes was set, whether it ended the search while it still gained; else None.
        forward_NK: forward tokens spent up to there, or None.
        ledger: sums over documents of what the attack spent.
        distance: (lo, hi) behind the change to (sum of rises, tokens).
        predicted, exact: rises in nats, estimated and measured, of all accepted steps.
    """

    documents: list[str]
    columns: dict[str, np.ndarray]
    curve_NK: np.ndarray | None
    forward_NK: np.ndarray | None
    flips_K: list[int]
    compute_ND: np.ndarray | None
    passes_D: list[int]
    ceiling: np.ndarray | None
    ledger: dict[str, int]
    distance: dict[tuple[int, int], tuple[float, float]]
    predicted: np.ndarray
    exact: np.ndarray
    digest: str


@dataclass
class CleanRows:
    """One protocol of clean quality on one run; sums per document."""

    documents: list[str]
    nll: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    words: np.ndarray
    excluded: int
    digest: str


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(f"{name} stands where a number should")


# One for all rows: json.loads would build a decoder and guess the encoding anew for every line.
DECODER = json.JSONDecoder(parse_constant=_not_a_number)


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Python's search for reference cycles, off: rows have none, and looking through millions of them took a third of the time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def stream_rows(path: Path, schema: str) -> Iterator[tuple[int, dict[str, Any], bytes]]:
    """Rows with their line numbers and raw bytes, one at a time; NaN and other schemas are errors."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                row = DECODER.decode(line.decode())
                if row.get("schema") != schema:
                    raise ValueError(f"the schema is {row.get('schema')!r}, not {schema!r}")
                yield number, row, line
    except FileNotFoundError:
        raise InputOutputError(f"{path} is missing. Run the step that makes it again.") from None
    except ValueError as error:
        raise InputOutputError(f"{path}, line {number}: {error}. Delete the file and run its step again.") from None


def number_of(row: dict[str, Any], key: str, path: Path, number: int) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputOutputError(
            f"{path}, line {number}: {key} is {value!r} for document {row.get('document')!r}; a result must be a number. "
            "Delete the file and run its step again."
        )
    return value


def _curve(row: dict[str, Any]) -> tuple[list[float], list[float], list[int]] | None:
    points = row.get("curve")
    if not points:
        return None
    ordered = sorted(points, key=lambda point: point["flips"])
    return (
        [point["J"] for point in ordered],
        [point.get("forward_tokens", 0) for point in ordered],
        [point["flips"] for point in ordered],
    )


def _pad(curves: list[list[float]]) -> np.ndarray:
    width = max(map(len, curves))
    return np.array([curve + curve[-1:] * (width - len(curve)) for curve in curves], dtype=np.float64)


def _by_distance(row: dict[str, Any], J: float, kept: float, changes: int) -> dict[str, float]:
    """Summed rise over unchanged tokens per change: all, near (1 to 5 tokens behind) and far."""
    total = J * kept / changes
    found = {"damage": total}
    bins = [part for part in row.get("distance") or [] if part.get("tokens")]
    if bins and not row.get("trigger"):
        near = sum(part["J"] * part["tokens"] for part in bins if part["hi"] <= NEAR) / changes
        found |= {"near": near, "far": total - near}
    return found


def _derived(row: dict[str, Any], kept_row: dict[str, Any]) -> dict[str, float]:
    """Damage per changed token; an attack that changed nothing did none.

    A trigger stands in front, so that every text token is unchanged, and counts by its length; so do vectors
    that are no tokens, which count as the tokens that they could have been.
    """
    flips = row.get("flips")
    trigger = row.get("trigger")
    if flips is None and not trigger:
        return {}
    count = int(row.get("vectors") or len(trigger or flips or []))
    changes = max(1, count)
    kept = kept_row["tokens"] - (0 if trigger else len(flips or []))
    found = {"changes": float(count)} | _by_distance(row, kept_row["J"], kept, changes)
    if "top1_agreement" in kept_row:
        found["changed_predictions"] = (1 - kept_row["top1_agreement"]) * kept / changes
    if row.get("accuracy") is not None and row.get("clean_accuracy") is not None:
        found["accuracy_lost"] = (row["clean_accuracy"] - row["accuracy"]) * kept / changes
    calibrated = row.get("calibrated")
    if calibrated:
        both = calibrated | {"trigger": trigger}
        found |= {f"{key}_cal": value for key, value in _by_distance(both, calibrated["J"], kept, changes).items()}
        found["J_cal"] = calibrated["J"]
    return found


def _slim(row: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    kept: dict[str, Any] = {"document": str(row.get("document"))}
    for key in REQUIRED:
        kept[key] = number_of(row, key, path, number)
    for key in MEASURES:
        if key not in kept and row.get(key) is not None:
            kept[key] = number_of(row, key, path, number)
    kept |= _derived(row, kept)
    kept["curve"] = _curve(row)
    kept["compute"] = row.get("compute") or []
    search = row.get("search") or {}
    kept["ceiling"] = bool(search["ceiling"]) if "converged" in search else None  # only then was a ceiling set
    kept["ledger"] = row.get("ledger") or {}
    kept["distance"] = row.get("distance") or []
    kept["predicted"], kept["exact"] = row.get("predicted") or [], row.get("exact") or []
    return kept


def _by_compute(rows: list[dict[str, Any]]) -> tuple[np.ndarray | None, list[int]]:
    """J of each document after fewer than so many forward passes."""
    if not all(row["compute"] for row in rows):
        return None, []
    passes = [point["forwards"] for row in rows for point in row["compute"]]
    doublings = range(math.frexp(min(passes))[1], math.frexp(max(passes))[1] + 1)
    limits = [2**doubling for doubling in doublings]
    found_ND = np.zeros((len(rows), len(limits)))
    for index, row in enumerate(rows):
        for point in sorted(row["compute"], key=lambda point: point["forwards"]):
            found_ND[index, np.array(limits) > point["forwards"]] = point["J"]
    return found_ND, limits


def _columns(rows: list[dict[str, Any]], digest: str) -> AttackRows:
    rows.sort(key=lambda row: row["document"])
    columns = {
        key: np.array([row[key] for row in rows], dtype=np.float64)
        for key in (*MEASURES, "changes", *DERIVED)
        if all(key in row for row in rows)
    }
    curves = [row["curve"] for row in rows]
    whole = all(curves)
    compute_ND, passes_D = _by_compute(rows)
    ends = [row["ceiling"] for row in rows]
    ledger: dict[str, int] = {}
    distance: dict[tuple[int, int], tuple[float, float]] = {}
    for row in rows:
        for key, value in row["ledger"].items():
            if isinstance(value, int):
                ledger[key] = ledger.get(key, 0) + value
        for part in row["distance"]:
            if part.get("tokens"):
                rise, tokens = distance.get((part["lo"], part["hi"]), (0.0, 0.0))
                distance[part["lo"], part["hi"]] = (rise + part["J"] * part["tokens"], tokens + part["tokens"])
    steps = [(min(len(row["predicted"]), len(row["exact"])), row) for row in rows]
    return AttackRows(
        documents=[row["document"] for row in rows],
        columns=columns,
        curve_NK=_pad([curve[0] for curve in curves]) if whole else None,
        forward_NK=_pad([curve[1] for curve in curves]) if whole else None,
        flips_K=max((curve[2] for curve in curves), key=len) if whole else [],
        compute_ND=compute_ND,
        passes_D=passes_D,
        ceiling=np.array(ends) if None not in ends else None,
        ledger=ledger,
        distance=dict(sorted(distance.items())),
        predicted=np.array([value for count, row in steps for value in row["predicted"][:count]], dtype=np.float64),
        exact=np.array([value for count, row in steps for value in row["exact"][:count]], dtype=np.float64),
        digest=digest,
    )


def insist_once(documents: list[str], path: Path, what: str) -> None:
    if len(set(documents)) < len(documents):
        twice = next(name for name in documents if documents.count(name) > 1)
        raise InputOutputError(
            f"{path}: document {twice!r} stands twice under {what}. Delete the file and run its step again."
        )


def read_attack(path: Path) -> dict[str, AttackRows]:
    """One attack file, by variant.

    Raises:
        InputOutputError: damaged line, NaN, a document that stands twice, or no rows.
    """
    gathered: dict[str, list[dict[str, Any]]] = {}
    digest = hashlib.sha256()
    for number, row, line in stream_rows(path, "attack/1"):
        digest.update(line)
        gathered.setdefault(row["variant"], []).append(_slim(row, path, number))
    if not gathered:
        raise InputOutputError(f"{path} has no rows. Delete it and run its step again.")
    for variant, rows in gathered.items():
        insist_once([row["document"] for row in rows], path, variant)
    return {variant: _columns(rows, digest.hexdigest()) for variant, rows in gathered.items()}


def read_clean(path: Path) -> dict[str, CleanRows]:
    """Perplexity rows, by protocol; excluded documents are counted and left out.

    Raises:
        InputOutputError: damaged line, NaN, a document that stands twice, or nothing scored.
    """
    gathered: dict[str, list[dict[str, Any]]] = {}
    excluded: dict[str, int] = {}
    digest = hashlib.sha256()
    for number, row, line in stream_rows(path, "perplexity/1"):
        digest.update(line)
        protocol = row["protocol"]
        gathered.setdefault(protocol, [])
        if row.get("excluded"):
            excluded[protocol] = excluded.get(protocol, 0) + 1
            continue
        kept = {key: number_of(row, key, path, number) for key in ("nll", "tokens", "bytes", "words")}
        gathered[protocol].append({"document": str(row["document"]), **kept})
    tables = {}
    for protocol, rows in gathered.items():
        rows.sort(key=lambda row: row["document"])
        insist_once([row["document"] for row in rows], path, protocol)
        if not rows:
            raise InputOutputError(f"{path}: protocol {protocol} scored no document. Use longer test documents.")
        arrays = {
            key: np.array([row[key] for row in rows], dtype=np.float64) for key in ("nll", "tokens", "bytes", "words")
        }
        names = [row["document"] for row in rows]
        tables[protocol] = CleanRows(
            documents=names, excluded=excluded.get(protocol, 0), digest=digest.hexdigest(), **arrays
        )
    return tables


def shared_documents(documents: dict[str, list[str]], what: str) -> list[str]:
    """The one set of documents that all files have.

    Raises:
        ConfigurationError: if two files disagree; names a document and the file that lacks it.
    """
    names = list(documents)
    first = documents[names[0]]
    for name in names[1:]:
        if documents[name] != first:
            lost = sorted(set(first) ^ set(documents[name]))
            lacking = name if lost and lost[0] in set(first) else names[0]
            raise ConfigurationError(
                f"{what}: document {lost[0]!r} is missing in {lacking}, and pairs need the same documents everywhere. "
                "Delete that file and run its step again."
            )
    return first
