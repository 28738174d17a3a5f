"""What one model's attack does to another: replayed flips and triggers, and crossed gradients.

Replay asks whether the damage carries over. Crossed gradients ask why an attack is
weak: proposals from the source, exact scores on the target. If they beat the target's
own proposals, its gradients are masked and its robustness is not what it seems.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isotone.attacks import hotflip, job, measure, universal
from isotone.attacks.context import Context
from isotone.attacks.documents import Document, read_manifest
from isotone.attacks.objective import Ledger
from isotone.attacks.registry import SPECS
from isotone.attacks.run import chunks
from isotone.attacks.search import State, Trace
from isotone.attacks.settings import AttackJob
from isotone.attacks.trigger import by_length
from isotone.errors import ConfigurationError
from isotone.evaluation.journal import Journal
from isotone.progress import Progress
from isotone.records import Json, file_digest, folder_digest, read_rows, write_marker, write_rows
from isotone.schema import as_mapping

ROWS, COST = "transfer/1", "transfer_cost/1"
KEPT = ("document", "tokens", "clean_nll", "J", "self", "total", "published_degradation", "top1_agreement", "kl")


def replay(context: Context, documents: Sequence[Document], rows: Sequence[Json], attack: str) -> list[Json]:
    """The rows that another model's substitutions (or trigger) give on this one.

    Raises:
        ConfigurationError: if the rows are not of the same documents.
    """
    variant = SPECS[attack].main({row["variant"] for row in rows})
    by_name = {row["document"]: row for row in rows if row["variant"] == variant}
    missing = [document.name for document in documents if document.name not in by_name]
    if missing:
        raise ConfigurationError(
            f'A source of `transfer` has no {variant} row for document "{missing[0]}". '
            "Its rows were made from other attack documents; make them again."
        )
    first = by_name[documents[0].name]
    if "trigger" in first:
        made = universal.trigger_rows(
            context.objective,
            documents,
            [entry["token"] for entry in first["trigger"]],
            attack=attack,
            variant=variant,
            pieces=context.vocabulary.pieces,
            restart=first["restart"],
            ledger=dict.fromkeys(first["ledger"], 0),
        )
    else:
        traces = []
        for group in by_length(documents):
            for document in (documents[i] for i in group):
                row = by_name[document.name]
                ids = document.ids.copy()
                order = [flip["position"] for flip in row["flips"]]
                ids[order] = [flip["new"] for flip in row["flips"]]
                unknown = np.zeros(len(ids))  # `measure` scores every state itself
                states = [State(document.ids, [], unknown, 0.0), State(ids, order, unknown, 0.0)]
                traces.append(Trace(document, unknown, states, [Ledger(), Ledger()], Ledger()))
        made = measured(context, traces, attack, variant)
    order_of = {document.name: index for index, document in enumerate(documents)}
    return sorted(made, key=lambda row: order_of[row["document"]])


def measured(context: Context, traces: Sequence[Trace], attack: str, variant: str) -> list[Json]:
    """Rows of traces whose texts differ in length."""
    rows = []
    for group in by_length([trace.document for trace in traces]):
        rows += measure.rows(
            context.objective,
            [traces[i] for i in group],
            attack=attack,
            variant=variant,
            pieces=context.vocabulary.pieces,
        )
    return rows


def crossed(target: Context, source: Context, documents: Sequence[Document]) -> list[Json]:
    """HotFlip on the target with proposals from the source's gradients."""
    settings = target.job.hotflip
    rows = []
    for chunk in chunks(documents):
        ids_BT = np.stack([document.ids for document in chunk])
        clean = dict(zip([document.name for document in chunk], source.objective.scores(ids_BT), strict=True))
        propose = hotflip.GradientProposals(
            source.objective, target.vocabulary, settings.candidates, target.tokenizer, clean=clean
        )
        traces = hotflip.greedy(target.objective, chunk, propose, flips=settings.flips, beam=settings.beam)
        rows += measured(target, traces, "hotflip", "crossed")
    return rows


def label(rows: Sequence[Json], source: str, target: str) -> list[Json]:
    """Rows of schema ``transfer/1``."""
    return [
        {"source": source, "target": target, "variant": row["variant"], **{key: row[key] for key in KEPT}}
        for row in rows
    ]


def transfer(
    attack: str,
    settings: AttackJob,
    target: tuple[str, Path],
    documents: Path,
    sources: Sequence[tuple[str, Path, Path | None]],
    rows: Path,
    cost: Path,
    marker: Path,
) -> None:
    """Replay every source on the target.

    Args:
        target: name and model folder.
        sources: name, row file and, for crossed gradients, model folder.
    """
    start = time.perf_counter()
    manifest = read_manifest(documents)
    inputs = {"target": folder_digest(target[1], "*.safetensors"), "documents": manifest.digest}
    inputs |= {f"source {name}": file_digest(path) for name, path, _ in sources}
    recorded = {"attack": attack, **as_mapping(settings)}
    journal = Journal(rows, {"settings": recorded, "inputs": inputs})
    context = job.open_target(target[1], settings, manifest)
    few = manifest.test[: settings.shared.crossed]
    made: list[Json] = []
    costs: list[Json] = []
    with Progress(f"transfer {attack}", len(sources), "sources") as progress:
        for name, path, folder in sources:
            if name not in journal.done:
                begun = time.perf_counter()
                found = label(replay(context, manifest.test, read_rows(path, job.ROWS), attack), name, target[0])
                if few and SPECS[attack].guided and folder is not None and name != target[0]:
                    source = job.open_target(folder, settings, manifest)
                    found += label(crossed(context, source, few), name, target[0])
                journal.add([(name, {"rows": found, "seconds": round(time.perf_counter() - begun, 3)})])
            made += journal.done[name]["rows"]
            costs.append({"source": name, "seconds": journal.done[name]["seconds"]})
            progress.add()
    write_rows(rows, ROWS, made)
    write_rows(cost, COST, costs)
    means: Json = {}
    for name, _, _ in sources:
        for variant in sorted({row["variant"] for row in made if row["source"] == name}):
            damages = [row["J"] for row in made if row["source"] == name and row["variant"] == variant]
            means.setdefault(name, {})[variant] = {"J_mean": sum(damages) / len(damages), "documents": len(damages)}
    write_marker(
        marker,
        "transfer",
        settings=recorded,
        inputs=inputs,
        outputs={"rows": file_digest(rows)},
        result=means,
        cost={"seconds": round(time.perf_counter() - start, 2)},
    )
    journal.close()
