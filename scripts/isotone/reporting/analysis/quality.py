"""Clean quality per arm and protocol, and what each arm costs against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from isotone.records import Json
from isotone.reporting.analysis.numbers import Sources, draw_of, number
from isotone.reporting.evidence.expected import Run
from isotone.reporting.evidence.read import Evidence
from isotone.statistics import Estimate, bca_ratio, two_way

PROTOCOL_VERSION = "perplexity/1"


def _exponential(estimate: Estimate, what: str) -> Estimate:
    def raised(value: float | None) -> float | None:
        return None if value is None else math.exp(min(value, 700.0))

    method = f"exp of the {what}: {estimate.method}"
    return replace(
        estimate,
        value=math.exp(min(estimate.value, 700.0)),
        low=raised(estimate.low),
        high=raised(estimate.high),
        method=method,
    )


def _pooled(evidence: Evidence, runs: list[Run], protocol: str, measure: str) -> np.ndarray:
    return np.mean([getattr(evidence.clean[run][protocol], measure) for run in runs], axis=0)


def _measures(evidence: Evidence, runs: list[Run], protocol: str, sources: Sources) -> Json:
    report = evidence.study.report
    options = draw_of(report)
    nll, tokens, size, words = (_pooled(evidence, runs, protocol, key) for key in ("nll", "tokens", "bytes", "words"))
    facts = {"seeds": len(runs), "protocol": protocol, "version": PROTOCOL_VERSION}
    rows = sources.clean(runs)
    nats = bca_ratio(nll, tokens, **options)
    entry: Json = {
        "nats_per_token": number(nats, "nats/token", rows, **facts),
        "token_perplexity": number(_exponential(nats, "nats per token"), "perplexity/token", rows, **facts),
        "bits_per_byte": None,
        "word_perplexity": None,
        "documents": len(nll),
        "excluded": evidence.clean[runs[0]][protocol].excluded,
        "per_seed": {
            str(run.seed): float(evidence.clean[run][protocol].nll.sum() / evidence.clean[run][protocol].tokens.sum())
            for run in runs
        },
    }
    # Bytes and words are those of whole documents, and only this protocol scores them whole.
    whole = protocol == "rolling"
    if whole and (size > 0).all():
        bits = bca_ratio(nll / math.log(2), size, **options)
        entry["bits_per_byte"] = number(bits, "bits/byte", rows, **facts)
    if whole and (words > 0).all():
        per_word = _exponential(bca_ratio(nll, words, **options), "nats per word")
        entry["word_perplexity"] = number(per_word, "perplexity/word", rows, **facts)
    return entry


def _cost(evidence: Evidence, name: str, protocol: str, sources: Sources) -> Json | None:
    """Rise in nats per token against the reference, documents and seeds both drawn anew."""
    study = evidence.study
    reference = study.report.baseline
    seeds = evidence.common_seeds(name, reference)
    if name == reference or not seeds:
        return None
    pairs = [(Run(name, seed), Run(reference, seed)) for seed in seeds]
    tables = [(evidence.clean[arm][protocol], evidence.clean[base][protocol]) for arm, base in pairs]
    tokens = tables[0][0].tokens
    # weighted so that the mean over documents is the difference of ratios of sums
    weighted_SN = np.stack([(arm.nll - base.nll) / tokens.mean() for arm, base in tables])
    rows = sources.clean([run for pair in pairs for run in pair])
    if len(seeds) > 1 and weighted_SN.shape[1] > 1:
        estimate, test = two_way(weighted_SN, confidence=study.report.confidence)
        return number(estimate, "nats/token", rows, seeds=len(seeds), protocol=protocol, p=test.p)
    options = draw_of(study.report)
    estimate = bca_ratio(weighted_SN[0] * tokens.mean(), tokens, **options)
    return number(estimate, "nats/token", rows, seeds=1, protocol=protocol)


def quality(evidence: Evidence, sources: Sources, say: Callable[[str], None] = lambda text: None) -> Json:
    """Every protocol of every arm and control: four units, seeds apart, and the rise against the reference."""
    table: Json = {}
    for name in [*evidence.study.arms, *evidence.study.control_arms()]:
        runs = evidence.runs_of(name)
        if not runs:
            continue
        say(f"clean quality of {name}")
        table[name] = {}
        for protocol in evidence.study.perplexity.protocols:
            entry = _measures(evidence, runs, protocol, sources)
            entry["cost"] = _cost(evidence, name, protocol, sources)
            table[name][protocol] = entry
    return table
