"""Arms against the baseline itself, paired by document and seed: secondary, and no claim of robustness."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isotone.records import Json
from isotone.reporting.analysis.numbers import Sources, draw_of, number
from isotone.reporting.evidence.expected import Run, compared_arms
from isotone.reporting.evidence.read import Evidence
from isotone.statistics import (
    Estimate,
    Test,
    adjust,
    bca_mean,
    cohens_d_paired,
    cohens_d_pooled,
    hierarchical,
    mcnemar,
    paired_t,
    sign_flip,
    sign_flip_floor,
    two_way,
)


def plain(test: Test) -> Json:
    """A test as plain data."""
    return {"statistic": test.statistic, "p": test.p, "n": test.n, "method": test.method}


def claim_of(differences_SN: np.ndarray, evidence: Evidence) -> tuple[Estimate, Test, str]:
    """The interval and test of the claim: new seeds and new documents, or documents alone with one seed."""
    report = evidence.study.report
    if differences_SN.shape[0] > 1 and differences_SN.shape[1] > 1:
        return *two_way(differences_SN, confidence=report.confidence), "seeds and documents"
    column = differences_SN.mean(0)
    estimate = bca_mean(column, **draw_of(report))
    return estimate, sign_flip(column, seed=report.seed), "documents of one training run"


def compare(evidence: Evidence, name: str, other: str, attack: str, variant: str, sources: Sources) -> Json | None:
    """J of ``other`` minus J of ``name``: positive where ``name`` is the more robust; None where they share no seed."""
    seeds = evidence.common_seeds(name, other)
    if not seeds or variant not in evidence.variants(other, attack) or variant not in evidence.variants(name, attack):
        return None
    report = evidence.study.report
    own_SN = evidence.matrix(name, attack, variant, "J", seeds)
    other_SN = evidence.matrix(other, attack, variant, "J", seeds)
    differences_SN = other_SN - own_SN
    by_document, by_seed = differences_SN.mean(0), differences_SN.mean(1)
    estimate, test, scope = claim_of(differences_SN, evidence)
    rows = sources.attack([Run(which, seed) for which in (name, other) for seed in seeds], attack)
    options = draw_of(report)
    several, documents = len(seeds) > 1, len(by_document)
    bootstraps = {"documents": bca_mean(by_document, **options)}
    tests = {"claim": test, "sign_flip_documents": sign_flip(by_document, seed=report.seed)}
    if documents > 1:
        tests["paired_t_documents"] = paired_t(by_document)
    if several and documents > 1:
        bootstraps["seeds_then_documents"] = hierarchical(differences_SN, **options)
    if several:
        tests["sign_flip_seeds"] = sign_flip(by_seed)
        tests["paired_t_seeds"] = paired_t(by_seed)
    entry: Json = {
        "arm": name,
        "against": other,
        "attack": attack,
        "variant": variant,
        "scope": scope,
        "difference": number(estimate, "nats/token", rows, seeds=len(seeds), documents=documents),
        "bootstrap": {key: number(value, "nats/token", rows) for key, value in bootstraps.items()},
        "tests": {key: plain(value) for key, value in tests.items()},
        "seed_floor": sign_flip_floor(len(seeds)) if several else None,
        "per_seed": {str(seed): float(value) for seed, value in zip(seeds, by_seed, strict=True)},
        "d_paired": cohens_d_paired(by_document) if documents > 1 else None,
        "d_pooled": cohens_d_pooled(other_SN.mean(0), own_SN.mean(0)) if documents > 1 else None,
    }
    entry["success"] = {}
    for threshold in report.thresholds:
        result = mcnemar(other_SN[0] > threshold, own_SN[0] > threshold)
        entry["success"][f"{threshold:g}"] = {"seed": seeds[0], "table": result.table, **plain(result.test)}
    return entry


def secondary(evidence: Evidence, sources: Sources, say: Callable[[str], None] = lambda text: None) -> list[Json]:
    """Every arm against the baseline, every attack and form; p by Benjamini-Hochberg over the whole grid."""
    found = []
    for name in compared_arms(evidence.study):
        say(f"comparing {name} with {evidence.study.report.baseline}")
        for attack in evidence.study.attacks.run:
            for variant in evidence.variants(name, attack):
                entry = compare(evidence, name, evidence.study.report.baseline, attack, variant, sources)
                if entry:
                    found.append(entry)
    for entry, p in zip(found, adjust([entry["tests"]["claim"]["p"] for entry in found], "bh"), strict=True):
        entry["p_adjusted"], entry["adjustment"] = p, f"Benjamini-Hochberg over {len(found)} comparisons"
    grid = [cell for entry in found for cell in entry["success"].values()]
    for cell, p in zip(grid, adjust([cell["p"] for cell in grid], "bh"), strict=True):
        cell["p_adjusted"] = p
    return found
