"""One attack on one model: from documents to rows, resumable document by document."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from isotone.attacks import measure, universal
from isotone.attacks.context import Context
from isotone.attacks.documents import Document, Manifest
from isotone.attacks.registry import SPECS
from isotone.attacks.spec import RESTART, Effort
from isotone.attacks.trigger import by_length
from isotone.evaluation.journal import Journal
from isotone.progress import Progress
from isotone.records import Json

CHUNK = 8  # documents that are attacked together, and lost together by a kill


def chunks(documents: Sequence[Document]) -> list[list[Document]]:
    """Documents of equal length, at most `CHUNK` together."""
    return [
        [documents[i] for i in group[first : first + CHUNK]]
        for group in by_length(documents)
        for first in range(0, len(group), CHUNK)
    ]


def run(name: str, context: Context, manifest: Manifest, journal: Journal) -> tuple[list[Json], list[Json], Json]:
    """Attack every test document.

    Returns:
        ``(rows, costs, extra)``: rows of schema ``attack/1`` by variant and in the order of the
        manifest, their seconds, and what else the marker tells.
    """
    efforts = [(context, manifest.test)]
    few = manifest.test[: context.job.shared.fresh_starts]
    spec, settings = SPECS[name], context.job.of(name)
    if few and spec.restarted(settings):
        efforts.append((replace(context, restart=1), few))
    effort = spec.trigger(settings)
    if effort:
        return _run_universal(name, effort, efforts, manifest, journal)
    rows: list[Json] = []
    costs: list[Json] = []
    with Progress(f"attack {name}", sum(len(documents) for _, documents in efforts)) as progress:
        for start, documents in efforts:
            for chunk in chunks(documents):
                _run_chunk(name, start, chunk, journal)
                progress.add(len(chunk))
            found = [journal.done[_key(start, document)] for document in documents]
            for variant in sorted(found[0]["rows"]):  # a journal that was read again has sorted keys
                rows += [entry["rows"][variant] for entry in found]
                costs += [entry["costs"][variant] for entry in found]
    return rows, costs, {}


def _key(context: Context, document: Document) -> str:
    return f"restart {context.restart} document {document.name}"


def _run_chunk(name: str, context: Context, chunk: Sequence[Document], journal: Journal) -> None:
    todo = [document for document in chunk if _key(context, document) not in journal.done]
    if not todo:
        return
    start = time.perf_counter()
    made_by_variant = _rows_of(name, context, todo)
    seconds = (time.perf_counter() - start) / len(todo) / max(len(made_by_variant), 1)
    found: list[dict[str, Any]] = [{"rows": {}, "costs": {}} for _ in todo]
    for label, made in made_by_variant.items():
        for entry, document, row in zip(found, todo, made, strict=True):
            entry["rows"][label] = row
            entry["costs"][label] = {"variant": label, "document": document.name, "seconds": round(seconds, 4)}
    journal.add([(_key(context, document), entry) for document, entry in zip(todo, found, strict=True)])


def _rows_of(name: str, context: Context, documents: Sequence[Document]) -> dict[str, list[Json]]:
    spec = SPECS[name]
    if spec.rows is not None:
        return spec.rows(context, documents)
    made = {}
    for variant, traces in spec.search(context, documents).items():
        label = variant + RESTART * bool(context.restart)
        made[label] = measure.rows(
            context.objective, traces, attack=name, variant=label, pieces=context.vocabulary.pieces
        )
    return made


def _run_universal(
    name: str,
    effort: Effort,
    efforts: Sequence[tuple[Context, list[Document]]],
    manifest: Manifest,
    journal: Journal,
) -> tuple[list[Json], list[Json], Json]:
    rows: list[Json] = []
    costs: list[Json] = []
    extra: Json = {}
    for context, documents in efforts:
        start = time.perf_counter()
        made, about = universal.attack(name, context, effort, manifest.search, documents, journal)
        seconds = round((time.perf_counter() - start) / len(documents), 4)
        rows += made
        costs += [{"variant": row["variant"], "document": row["document"], "seconds": seconds} for row in made]
        extra = extra or about
    return rows, costs, extra


def summary(rows: Sequence[Json]) -> Json:
    """Means per variant, for the marker."""
    found: dict[str, list[Json]] = {}
    for row in rows:
        found.setdefault(row["variant"], []).append(row)
    return {
        variant: {
            "documents": len(members),
            "J_mean": sum(row["J"] for row in members) / len(members),
            "total_mean": sum(row["total"] for row in members) / len(members),
            "clean_nll_mean": sum(row["clean_nll"] for row in members) / len(members),
            "published_success_share": sum(row["published_success"] for row in members) / len(members),
            "forward_tokens": sum(row["ledger"]["forward_tokens"] for row in members),
            "backward_tokens": sum(row["ledger"]["backward_tokens"] for row in members),
        }
        for variant, members in found.items()
    }
