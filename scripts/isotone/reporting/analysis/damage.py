"""What each attack did to each arm: means, curves over flips and over compute, thresholds, flips needed, distance profile."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isotone.attacks.published import SUCCESS, SUCCESS_PAIRS
from isotone.records import Json
from isotone.reporting.analysis.numbers import Sources, draw_of, number
from isotone.reporting.evidence.expected import Run
from isotone.reporting.evidence.read import Evidence
from isotone.statistics import bca_columns, kaplan_meier, wilson

UNITS = {
    "J": "nats/token",
    "self": "nats/token",
    "total": "nats/token",
    "kl": "nats/token",
    "clean_nll": "nats/token",
    "top1_agreement": "share of positions",
    "published_degradation": "relative rise of the total loss",
    "changed_predictions": "predictions/flip",
    "accuracy_lost": "hits/flip",
    "damage": "nats/flip",
    "near": "nats/flip",
    "far": "nats/flip",
    "J_cal": "nats/token",
    "damage_cal": "nats/flip",
    "near_cal": "nats/flip",
    "far_cal": "nats/flip",
}


def _success(evidence: Evidence, runs: list[Run], attack: str, variant: str, rows: str) -> Json:
    """Share of documents above each threshold; pooled over seeds it counts documents x seeds, so one seed is used."""
    confidence = evidence.study.report.confidence
    tables = [evidence.attacks[run][attack][variant] for run in runs]
    shares: Json = {}
    for threshold in evidence.study.report.thresholds:
        hits = [int((table.columns["J"] > threshold).sum()) for table in tables]
        first = wilson(hits[0], len(tables[0].documents), confidence=confidence)
        shares[f"{threshold:g}"] = number(
            first,
            "share of documents",
            rows,
            seed=runs[0].seed,
            per_seed=[hit / len(tables[0].documents) for hit in hits],
        )
    return shares


def _curve(evidence: Evidence, runs: list[Run], attack: str, variant: str, rows: str) -> list[Json] | None:
    """Mean J after each number of flips, seeds averaged per document, and the forward tokens spent."""
    tables = [evidence.attacks[run][attack][variant] for run in runs]
    if any(table.curve_NK is None for table in tables):
        return None
    report = evidence.study.report
    width = min(table.curve_NK.shape[1] for table in tables if table.curve_NK is not None)
    mean_NK = np.mean([table.curve_NK[:, :width] for table in tables if table.curve_NK is not None], axis=0)
    spent_K = np.mean([table.forward_NK[:, :width].mean(0) for table in tables if table.forward_NK is not None], axis=0)
    estimates = bca_columns(mean_NK, **draw_of(report))
    return [
        {
            "flips": tables[0].flips_K[k],
            "forward_tokens": float(spent_K[k]),
            "J": number(estimate, "nats/token", rows, seeds=len(runs)),
        }
        for k, estimate in enumerate(estimates)
    ]


def _compute(evidence: Evidence, runs: list[Run], attack: str, variant: str, rows: str) -> list[Json] | None:
    """Mean J once searches had spent fewer than so many forward passes, seeds averaged per document."""
    tables = [evidence.attacks[run][attack][variant] for run in runs]
    if any(table.compute_ND is None for table in tables):
        return None
    limits = sorted({limit for table in tables for limit in table.passes_D})
    padded = []
    for table in tables:
        if table.compute_ND is not None:
            before = [np.zeros(len(table.documents))] * sum(limit < table.passes_D[0] for limit in limits)
            after = [table.compute_ND[:, -1]] * sum(limit > table.passes_D[-1] for limit in limits)
            padded.append(np.stack([*before, *table.compute_ND.T, *after], 1))
    estimates = bca_columns(np.mean(padded, axis=0), **draw_of(evidence.study.report))
    return [
        {"passes": limit, "J": number(estimate, "nats/token", rows, seeds=len(runs))}
        for limit, estimate in zip(limits, estimates, strict=True)
    ]


def _flips_needed(evidence: Evidence, runs: list[Run], attack: str, variant: str) -> Json | None:
    """Kaplan-Meier of the flips that lift J above the middle threshold, on the first seed."""
    table = evidence.attacks[runs[0]][attack][variant]
    if table.curve_NK is None or table.flips_K != list(range(len(table.flips_K))) or len(table.flips_K) < 2:
        return None
    thresholds = sorted(evidence.study.report.thresholds)
    threshold = thresholds[len(thresholds) // 2]
    above_NK = table.curve_NK > threshold
    broken_N = np.asarray(above_NK.any(1))
    flips_N = np.where(broken_N, above_NK.argmax(1), table.curve_NK.shape[1] - 1)
    survival = kaplan_meier(flips_N, broken_N, confidence=evidence.study.report.confidence)
    return {
        "threshold": threshold,
        "seed": runs[0].seed,
        "flips": survival.flips,
        "standing": survival.standing,
        "low": survival.low,
        "high": survival.high,
        "median": survival.median,
        "broken": survival.broken,
        "n": survival.n,
        "method": "Kaplan-Meier, censored at the budget, log-log bounds",
    }


def _distance(evidence: Evidence, runs: list[Run], attack: str, variant: str) -> list[Json]:
    sums: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        for span, (rise, tokens) in evidence.attacks[run][attack][variant].distance.items():
            entry = sums.setdefault(span, [0.0, 0.0])
            entry[0] += rise
            entry[1] += tokens
    return [
        {"lo": lo, "hi": hi, "J": rise / tokens, "tokens": int(tokens), "unit": "nats/token"}
        for (lo, hi), (rise, tokens) in sorted(sums.items())
    ]


def _entry(evidence: Evidence, runs: list[Run], attack: str, variant: str, sources: Sources) -> Json:
    report = evidence.study.report
    rows = sources.attack(runs, attack)
    tables = [evidence.attacks[run][attack][variant] for run in runs]
    measures = [key for key in UNITS if all(key in table.columns for table in tables)]
    values_NC = np.mean([np.stack([table.columns[key] for key in measures], 1) for table in tables], axis=0)
    estimates = bca_columns(values_NC, **draw_of(report))
    entry: Json = {
        key: number(estimate, UNITS[key], rows, seeds=len(runs), version="attack/1")
        for key, estimate in zip(measures, estimates, strict=True)
    }
    entry["per_seed"] = {
        str(run.seed): float(table.columns["J"].mean()) for run, table in zip(runs, tables, strict=True)
    }
    entry["success"] = _success(evidence, runs, attack, variant, rows)
    if "published_degradation" in measures:
        threshold = SUCCESS_PAIRS if evidence.study.writes else SUCCESS
        hits = int((tables[0].columns["published_degradation"] > threshold).sum())
        share = wilson(hits, len(tables[0].documents), confidence=report.confidence)
        entry["published_success"] = number(share, "share of documents", rows, seed=runs[0].seed, threshold=threshold)
    entry["curve"] = _curve(evidence, runs, attack, variant, rows)
    entry["compute"] = _compute(evidence, runs, attack, variant, rows)
    entry["flips_needed"] = _flips_needed(evidence, runs, attack, variant)
    entry["distance"] = _distance(evidence, runs, attack, variant)
    entry["ledger"] = {key: sum(table.ledger.get(key, 0) for table in tables) for key in sorted(tables[0].ledger)}
    return entry


def damage(evidence: Evidence, sources: Sources, say: Callable[[str], None] = lambda text: None) -> Json:
    """Every attack in every form on every arm and control."""
    table: Json = {}
    for name in [*evidence.study.arms, *evidence.study.control_arms()]:
        runs = evidence.runs_of(name)
        if not runs:
            continue
        say(f"damage to {name}")
        table[name] = {
            attack: {
                variant: _entry(evidence, runs, attack, variant, sources) for variant in evidence.variants(name, attack)
            }
            for attack in evidence.study.attacks_of(name)
        }
    return table
