"""What every arm wrote: overlap with the references, lengths, and what it gained over the baseline and over copying."""

from __future__ import annotations

import numpy as np

from isotone.errors import ConfigurationError
from isotone.records import Json
from isotone.reporting.analysis.numbers import Sources, draw_of, number
from isotone.reporting.evidence.expected import Run, primary_variant
from isotone.reporting.evidence.read import Evidence
from isotone.reporting.evidence.written import SCORES, WrittenRows
from isotone.statistics import bca_columns, bca_mean, bca_ratio, two_way, wilson

VERSION = "generation/1"
AFTER_VERSION = "generation_after/1"
NOTHING_WRITTEN = ("copy", "lead")


def _difference(values_SN: np.ndarray, evidence: Evidence, rows: str) -> Json:
    """A paired mean: for new seeds and new documents where there are two of each, else for new documents."""
    study, seeds = evidence.study, len(values_SN)
    if seeds > 1 and values_SN.shape[1] > 1:
        estimate, test = two_way(values_SN, confidence=study.report.confidence)
        return number(estimate, "points", rows, seeds=seeds, version=VERSION, p=test.p)
    estimate = bca_mean(values_SN.mean(0), **draw_of(study.report))
    return number(estimate, "points", rows, seeds=seeds, version=VERSION)


def _of_text(tables: list[WrittenRows], evidence: Evidence, rows: str) -> Json:
    """Scores and length ratio of outputs, seeds averaged, documents drawn anew."""
    options, facts = draw_of(evidence.study.report), {"seeds": len(tables), "version": VERSION}
    means_NC = np.mean([np.stack([table.columns[key] for key in SCORES], 1) for table in tables], axis=0)
    entry: Json = {
        key: number(estimate, "points", rows, **facts)
        for key, estimate in zip(SCORES, bca_columns(means_NC, **options), strict=True)
    }
    words_N = np.mean([table.columns["words"] for table in tables], axis=0)
    ratio = bca_ratio(words_N, tables[0].columns["reference_words"], **options)
    return {**entry, "length_ratio": number(ratio, "words/word of the reference", rows, **facts)}


def _of_model(evidence: Evidence, name: str, sources: Sources) -> Json:
    runs, study = evidence.runs_of(name), evidence.study
    rows = sources.written(runs)
    tables = [evidence.written[run]["model"] for run in runs]
    entry = _of_text(tables, evidence, rows)
    options, facts = draw_of(study.report), {"seeds": len(runs), "version": VERSION}
    tokens_N = np.mean([table.columns["tokens"] for table in tables], axis=0)
    entry["tokens"] = number(bca_mean(tokens_N, **options), "tokens/output", rows, **facts)
    capped_N = tables[0].columns["capped"]  # of one seed: pooled over seeds it would count documents x seeds
    share = wilson(int(capped_N.sum()), len(capped_N), confidence=study.report.confidence)
    entry["capped"] = number(share, "share of outputs", rows, seed=runs[0].seed, version=VERSION)
    base = study.report.baseline
    seeds = evidence.common_seeds(name, base) if name != base else []
    entry["over_baseline"] = None
    if seeds:
        pairs = [
            (evidence.written[Run(name, seed)]["model"], evidence.written[Run(base, seed)]["model"]) for seed in seeds
        ]
        both = sources.written([Run(arm, seed) for seed in seeds for arm in (name, base)])
        entry["over_baseline"] = {
            key: _difference(np.stack([own.columns[key] - other.columns[key] for own, other in pairs]), evidence, both)
            for key in SCORES
        }
    copied = [evidence.written[run]["copy"] for run in runs]
    entry["over_copy"] = {
        key: _difference(
            np.stack([own.columns[key] - copy.columns[key] for own, copy in zip(tables, copied, strict=True)]),
            evidence,
            rows,
        )
        for key in SCORES
    }
    return entry


def _falls(evidence: Evidence, run: Run, attack: str, key: str) -> np.ndarray:
    """Points that each document's output loses against its reference."""
    columns = evidence.after[run][attack].columns
    return columns[f"clean_{key}"] - columns[f"attacked_{key}"]


def _after(evidence: Evidence, name: str, attack: str, sources: Sources) -> Json:
    runs, study = evidence.runs_of(name), evidence.study
    rows = sources.after(runs, attack)
    tables = [evidence.after[run][attack] for run in runs]
    options, facts = draw_of(study.report), {"seeds": len(runs), "version": AFTER_VERSION}

    def means(prefix: str) -> Json:
        values_NC = np.mean([np.stack([t.columns[f"{prefix}_{key}"] for key in SCORES], 1) for t in tables], axis=0)
        found = zip(SCORES, bca_columns(values_NC, **options), strict=True)
        return {key: number(estimate, "points", rows, **facts) for key, estimate in found}

    changed_N = tables[0].columns["changed"]
    share = wilson(int(changed_N.sum()), len(changed_N), confidence=study.report.confidence)
    entry: Json = {
        "variant": primary_variant(study, attack),
        "clean": means("clean"),
        "attacked": means("attacked"),
        "own": means("own"),
        "fall": {
            key: _difference(np.stack([_falls(evidence, run, attack, key) for run in runs]), evidence, rows)
            for key in SCORES
        },
        "changed": number(share, "share of outputs", rows, seed=runs[0].seed, version=AFTER_VERSION),
        "less_than_baseline": None,
    }
    base = study.report.baseline
    seeds = evidence.common_seeds(name, base) if name != base else []
    if seeds:
        both = sources.after([Run(arm, seed) for seed in seeds for arm in (name, base)], attack)
        entry["less_than_baseline"] = {
            key: _difference(
                np.stack(
                    [
                        _falls(evidence, Run(base, s), attack, key) - _falls(evidence, Run(name, s), attack, key)
                        for s in seeds
                    ]
                ),
                evidence,
                both,
            )
            for key in SCORES
        }
    return entry


def written(evidence: Evidence, sources: Sources) -> Json:
    """Every arm and control, and beside them what copying the source and its first sentences give.

    Raises:
        ConfigurationError: if two runs disagree on what the sources are.
    """
    runs = list(evidence.written)
    first = evidence.written[runs[0]]
    for run in runs[1:]:
        for system in NOTHING_WRITTEN:
            own, other = evidence.written[run][system].columns, first[system].columns
            if any(not np.array_equal(own[key], other[key]) for key in SCORES):
                raise ConfigurationError(
                    f"{run.folder}/generation.jsonl and {runs[0].folder}/generation.jsonl hold other sources or references under the "
                    "same names. Delete the older one and run its step again."
                )
    rows = sources.written(runs[:1])
    names = [*evidence.study.arms, *evidence.study.control_arms()]
    return {
        "systems": {system: _of_text([first[system]], evidence, rows) for system in NOTHING_WRITTEN},
        "arms": {name: _of_model(evidence, name, sources) for name in names if evidence.runs_of(name)},
        "after": {
            name: {attack: _after(evidence, name, attack, sources) for attack in evidence.study.written_after(name)}
            for name in names
            if evidence.runs_of(name) and evidence.study.written_after(name)
        },
        "documents": len(first["model"].documents),
        "unreadable": first["model"].unreadable,
    }
