"""The transfer matrix: what one model's substitutions or triggers do to another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from isotone.errors import ConfigurationError, InputOutputError
from isotone.layout import command_for
from isotone.records import Json
from isotone.reporting.analysis.numbers import Sources, draw_of, number
from isotone.reporting.evidence.expected import primary_variant, trained_runs
from isotone.reporting.evidence.read import Evidence
from isotone.reporting.evidence.rows import stream_rows
from isotone.statistics import bca_mean

Cells = dict[tuple[str, str], dict[str, float]]
CROSSED = "crossed"


@dataclass
class Replays:
    """What gates need of the transfer matrices.

    Attributes:
        strongest: attack to target arm to J_N of the most damaging foreign source.
        crossed: attack to target arm to (J_N of its own search, J_N with the best foreign proposals).
    """

    strongest: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    crossed: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)


def _read(evidence: Evidence, attack: str) -> tuple[Cells, Cells, list[tuple[str, str]]]:
    """(source run, target run) to document to J, replayed and crossed, and the files with their digests."""
    replayed: Cells = {}
    crossed: Cells = {}
    files = []
    for run in trained_runs(evidence.study):
        name = f"transfer/{attack}/{run.name}-seed-{run.seed}.jsonl"
        digest = hashlib.sha256()
        for number_, row, line in stream_rows(evidence.folder / name, "transfer/1"):
            digest.update(line)
            value = row.get("J")
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputOutputError(
                    f"{evidence.folder / name}, line {number_}: J is {value!r}; a result must be a number."
                )
            cells = crossed if row.get("variant") == CROSSED else replayed
            cells.setdefault((str(row["source"]), run.key), {})[str(row["document"])] = float(value)
        files.append((name, digest.hexdigest()))
    return replayed, crossed, files


def _crossed_pairs(evidence: Evidence, attack: str, cells: Cells) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per arm, on the documents of its first crossed run: its own J and that of the best foreign proposals."""
    found = {}
    variant = primary_variant(evidence.study, attack)
    for run in trained_runs(evidence.study):
        foreign = {source: values for (source, target), values in cells.items() if target == run.key}
        if run.name in found or not foreign:
            continue
        rows = evidence.attacks[run][attack][variant]
        own = dict(zip(rows.documents, rows.columns["J"], strict=True))
        names = sorted(set.intersection(*(set(values) for values in foreign.values())) & set(own))
        means = {source: np.array([values[name] for name in names]) for source, values in foreign.items()}
        best = max(sorted(means), key=lambda source: float(means[source].mean()))
        found[run.name] = (np.array([own[name] for name in names]), means[best])
    return found


def _insist_complete(evidence: Evidence, attack: str, cells: Cells) -> list[str]:
    keys = [run.key for run in trained_runs(evidence.study)]
    first = sorted(next(iter(cells.values())))
    for target in keys:
        for source in keys:
            if sorted(cells.get((source, target), {})) != first:
                name = evidence.folder / f"transfer/{attack}/{target.replace('/', '-')}.jsonl"
                raise ConfigurationError(
                    f"{name} has no complete rows for the source {source}. Delete the file and make it again with "
                    f"`{command_for(evidence.folder, str(name))}`."
                )
    return first


def transfer(evidence: Evidence, sources: Sources) -> tuple[Json, Replays]:
    """Mean J of every (source arm, target arm), and per arm the strongest foreign replay per document.

    The diagonal holds replays from another seed of the same arm where there are
    several seeds, else the arm's own.

    Returns:
        the results, and what gates need.
    """
    table: Json = {}
    found = Replays()
    study = evidence.study
    for attack in study.attacks.transfer:
        cells, crossed, files = _read(evidence, attack)
        documents = _insist_complete(evidence, attack, cells)
        rows = sources.other(files)
        matrix: Json = {}
        found.strongest[attack] = {}
        found.crossed[attack] = _crossed_pairs(evidence, attack, crossed)
        for target in study.arms:
            targets = [run for run in trained_runs(study) if run.name == target]
            for source in study.arms:
                origins = [run for run in trained_runs(study) if run.name == source]
                pairs = [(a.key, b.key) for a in origins for b in targets if a != b] or [
                    (a.key, a.key) for a in origins
                ]
                values_N = np.array([np.mean([cells[pair][name] for pair in pairs]) for name in documents])
                report = study.report
                estimate = bca_mean(values_N, **draw_of(report))
                matrix.setdefault(source, {})[target] = number(estimate, "nats/token", rows, pairs=len(pairs))
                if source != target:
                    best = found.strongest[attack].get(target)
                    if best is None or values_N.mean() > best.mean():
                        found.strongest[attack][target] = values_N
        table[attack] = {"matrix": matrix, "documents": len(documents)}
    return table, found
