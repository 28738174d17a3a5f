"""The transfer matrix: what one model's substitutions or triggers do to another."""

from __future__ import annotations

import hashlib

import numpy as np

from isotone.errors import ConfigurationError, InputOutputError
from isotone.records import Json
from isotone.reporting.evidence import Evidence
from isotone.reporting.expected import trained_runs
from isotone.reporting.numbers import Sources, number
from isotone.reporting.rows import stream_rows
from isotone.statistics import bca_mean

Cells = dict[tuple[str, str], dict[str, float]]


def _read(evidence: Evidence, attack: str) -> tuple[Cells, list[tuple[str, str]]]:
    """(source run, target run) to document to J, and the files with their digests."""
    cells: Cells = {}
    files = []
    for run in trained_runs(evidence.study):
        name = f"transfer/{attack}/{run.name}-seed-{run.seed}.jsonl"
        digest = hashlib.sha256()
        for number_, row, line in stream_rows(evidence.folder / name, "transfer/1"):
            digest.update(line)
            if row.get("mode", "replay") != "replay":
                continue
            value = row.get("J")
            if not isinstance(value, (int, float)):
                raise InputOutputError(
                    f"{evidence.folder / name}, line {number_}: J is {value!r}; a result must be a number."
                )
            cells.setdefault((str(row["source"]), run.key), {})[str(row["document"])] = float(value)
        files.append((name, digest.hexdigest()))
    return cells, files


def _insist_complete(evidence: Evidence, attack: str, cells: Cells) -> list[str]:
    keys = [run.key for run in trained_runs(evidence.study)]
    first = sorted(next(iter(cells.values())))
    for target in keys:
        for source in keys:
            if sorted(cells.get((source, target), {})) != first:
                name = evidence.folder / f"transfer/{attack}/{target.replace('/', '-')}.jsonl"
                raise ConfigurationError(
                    f"{name} has no complete rows for the source {source}. Delete the file and make it again with "
                    f"`snakemake --profile profiles/local {name}`."
                )
    return first


def transfer(evidence: Evidence, sources: Sources) -> tuple[Json, dict[str, dict[str, np.ndarray]]]:
    """Mean J of every (source arm, target arm), and per arm the strongest foreign replay per document.

    The diagonal holds replays from another seed of the same arm where there are
    several seeds, else the arm's own.

    Returns:
        the results, and attack to arm to J_N of the strongest source run other than the arm itself.
    """
    table: Json = {}
    strongest: dict[str, dict[str, np.ndarray]] = {}
    study = evidence.study
    for attack in study.attacks.transfer:
        cells, files = _read(evidence, attack)
        documents = _insist_complete(evidence, attack, cells)
        rows = sources.other(files)
        matrix: Json = {}
        strongest[attack] = {}
        for target in study.arms:
            targets = [run for run in trained_runs(study) if run.name == target]
            for source in study.arms:
                origins = [run for run in trained_runs(study) if run.name == source]
                pairs = [(a.key, b.key) for a in origins for b in targets if a != b] or [
                    (a.key, a.key) for a in origins
                ]
                values_N = np.array([np.mean([cells[pair][name] for pair in pairs]) for name in documents])
                report = study.report
                estimate = bca_mean(
                    values_N, confidence=report.confidence, resamples=report.resamples, seed=report.seed
                )
                matrix.setdefault(source, {})[target] = number(estimate, "nats/token", rows, pairs=len(pairs))
                if source != target:
                    best = strongest[attack].get(target)
                    if best is None or values_N.mean() > best.mean():
                        strongest[attack][target] = values_N
        table[attack] = {"matrix": matrix, "documents": len(documents)}
    return table, strongest
