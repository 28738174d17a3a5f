"""Gates: is the attack strong enough, and honest, that its numbers mean anything?

A gate passes where the lower bound of the paired mean is at least zero; the share
of documents that break the order is printed beside it. A failed gate stops
nothing: it stands in the report beside the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from isotone.attacks.registry import SPECS
from isotone.attacks.spec import RESTART
from isotone.records import Json
from isotone.reporting.analysis.numbers import Sources, draw_of, number
from isotone.reporting.analysis.replays import Replays
from isotone.reporting.evidence.expected import primary_variant
from isotone.reporting.evidence.read import Evidence
from isotone.statistics import bca_mean

PASS, FAIL, NOT_RUN = "pass", "fail", "not run"
TOLERANCE = 0.02  # the better of two starts of a search that has converged has less than this share more J


def _paired(evidence: Evidence, gate: str, arm: str, better: np.ndarray, worse: np.ndarray, rows: str) -> Json:
    report = evidence.study.report
    differences = better - worse
    estimate = bca_mean(differences, **draw_of(report))
    low = estimate.value if estimate.low is None else estimate.low
    return {
        "gate": gate,
        "arm": arm,
        "state": PASS if low >= 0 else FAIL,
        "difference": number(estimate, "nats/token", rows),
        "violations": float((differences < 0).mean()),
        "why": "",
    }


def _skipped(gate: str, arm: str, why: str) -> Json:
    return {"gate": gate, "arm": arm, "state": NOT_RUN, "difference": None, "violations": None, "why": why}


def _mean(evidence: Evidence, arm: str, attack: str, variant: str) -> np.ndarray | None:
    if variant not in evidence.variants(arm, attack):
        return None
    return evidence.matrix(arm, attack, variant, "J").mean(0)


def _order(evidence: Evidence, arm: str, sources: Sources, strong: tuple[str, str], weak: tuple[str, str]) -> Json:
    gate = f"{strong[0]} {strong[1]} >= {weak[0]} {weak[1]}"
    better, worse = _mean(evidence, arm, *strong), _mean(evidence, arm, *weak)
    if better is None or worse is None:
        absent = strong if better is None else weak
        return _skipped(gate, arm, f"{absent[0]} {absent[1]} is not part of this study")
    if better.shape != worse.shape:
        return _skipped(gate, arm, "the two attacks were measured on different documents")
    rows = sources.attack(evidence.runs_of(arm), strong[0])
    return _paired(evidence, gate, arm, better, worse, rows)


def _budget(evidence: Evidence, arm: str, attack: str, sources: Sources) -> Json:
    """J at the full budget against J at half of it."""
    gate = f"{attack}: J grows with the budget"
    variant = primary_variant(evidence.study, attack)
    tables = [evidence.attacks[run][attack].get(variant) for run in evidence.runs_of(arm)]
    curves = [table.curve_NK for table in tables if table is not None and table.curve_NK is not None]
    if not curves or min(curve.shape[1] for curve in curves) < 3:
        return _skipped(gate, arm, "the rows have no curve over budgets")
    width = min(curve.shape[1] for curve in curves)
    mean_NK = np.mean([curve[:, :width] for curve in curves], axis=0)
    rows = sources.attack(evidence.runs_of(arm), attack)
    return _paired(evidence, gate, arm, mean_NK[:, -1], mean_NK[:, (width - 1) // 2], rows)


def _converged(evidence: Evidence, arm: str, attack: str, sources: Sources) -> Json:
    """What the same search finds from a fresh start, on one seed and a few documents.

    A search that has converged gains little by the better of two starts; one that goes on where it
    is stuck would gain nothing and prove nothing.
    """
    gate = f"{attack}: a fresh start gains less than {100 * TOLERANCE:g} %"
    variant = primary_variant(evidence.study, attack)
    for run in evidence.runs_of(arm):
        forms = evidence.attacks[run][attack]
        again = forms.get(variant + RESTART)
        if again is None or variant not in forms:
            continue
        index = {name: place for place, name in enumerate(forms[variant].documents)}
        base = forms[variant].columns["J"][[index[name] for name in again.documents]]
        other = again.columns["J"]
        if SPECS[attack].universal(evidence.study.attacks.of(attack)):  # one trigger for all: the better of two
            best = other if other.mean() > base.mean() else base
        else:
            best = np.maximum(base, other)
        entry = _paired(evidence, gate, arm, best, base, sources.attack([run], attack))
        mean = float(base.mean())
        gain = float(best.mean()) / mean - 1 if mean > 0 else math.inf
        entry["state"] = PASS if gain < TOLERANCE else FAIL
        entry["why"] = (
            f"a fresh start raised J by {gain:.1%} on {len(base)} documents (seed {run.seed}), "
            f"so the search has {'converged' if gain < TOLERANCE else 'not converged'}"
        )
        return entry
    return _skipped(gate, arm, "no fresh start was made")


def _ceiling(evidence: Evidence, arm: str, attack: str) -> Json:
    """Whether searches ended because they gained too little, or because a ceiling of forward passes came first."""
    variant = primary_variant(evidence.study, attack)
    runs = evidence.runs_of(arm)
    cut_R = [evidence.attacks[run][attack][variant].ceiling for run in runs]
    cut = np.concatenate([cut_N for cut_N in cut_R if cut_N is not None])
    number_cut = int(cut.sum())
    said = "so the search has not converged" if number_cut else "every search ended by itself"
    return {
        "gate": f"{attack}: the search ends before its ceiling",
        "arm": arm,
        "state": FAIL if number_cut else PASS,
        "difference": None,
        "violations": float(cut.mean()),
        "why": f"the ceiling came first on {number_cut} of {len(cut)} documents, {said}",
    }


def _masked(evidence: Evidence, arm: str, attack: str, sources: Sources) -> Json:
    """A first-order estimate that ranks its own proposals less well than on the baseline means masked gradients.

    Over all proposals, rejected ones included: among accepted flips the ranks look exact wherever the search is greedy.
    """
    gate = f"{attack}: gradients rank proposals as well as on the baseline"
    variant, baseline = primary_variant(evidence.study, attack), evidence.study.report.baseline
    seeds = evidence.common_seeds(arm, baseline)
    key = "proposal_correlation"
    tables = [evidence.attacks[run][attack][variant] for name in (arm, baseline) for run in evidence.runs_of(name)]
    if not seeds or any(key not in table.columns for table in tables):
        return _skipped(gate, arm, "the rows have too few proposals")
    own_N, theirs_N = (evidence.matrix(name, attack, variant, key, seeds).mean(0) for name in (arm, baseline))
    estimate = bca_mean(own_N - theirs_N, **draw_of(evidence.study.report))
    high = estimate.value if estimate.high is None else estimate.high
    return {
        "gate": gate,
        "arm": arm,
        "state": FAIL if high < 0 else PASS,
        "difference": number(estimate, "rank correlation", sources.attack(evidence.runs_of(arm), attack)),
        "violations": float((own_N < theirs_N).mean()),
        "why": f"rank correlation over all proposals {own_N.mean():.2f}, baseline {theirs_N.mean():.2f}",
        "correlation": float(own_N.mean()),
    }


def _against_transfer(
    evidence: Evidence, arm: str, attack: str, replayed: dict[str, np.ndarray], sources: Sources
) -> Json:
    """The attack made on the arm itself against the strongest one replayed from elsewhere."""
    gate = f"{attack} >= transfer"
    if arm not in replayed:
        return _skipped(gate, arm, f"{attack} is not in attacks.transfer")
    own = _mean(evidence, arm, attack, primary_variant(evidence.study, attack))
    if own is None or own.shape != replayed[arm].shape:
        return _skipped(gate, arm, "replayed on other documents")
    return _paired(evidence, gate, arm, own, replayed[arm], sources.attack(evidence.runs_of(arm), attack))


def _crossed(
    evidence: Evidence, arm: str, attack: str, crossed: dict[str, tuple[np.ndarray, np.ndarray]], sources: Sources
) -> Json:
    """Proposals from the arm's own gradients against proposals from another model's, both scored on the arm."""
    gate = f"{attack}: own gradients >= crossed gradients"
    if arm not in crossed:
        return _skipped(gate, arm, "no proposals from other models were scored")
    own_N, foreign_N = crossed[arm]
    return _paired(evidence, gate, arm, own_N, foreign_N, sources.attack(evidence.runs_of(arm), attack))


def gates(
    evidence: Evidence,
    sources: Sources,
    replays: Replays,
    say: Callable[[str], None] = lambda text: None,
) -> list[Json]:
    """All gates for every trained arm.

    Args:
        replays: what the transfer matrix says about every arm.
    """
    found = []
    study = evidence.study
    forms = {name: SPECS[name].variants(study.attacks.of(name)) for name in study.attacks.run}
    for arm in evidence.study.arms:
        say(f"gates of {arm}")
        for attack in study.attacks.run:
            spec, settings = SPECS[attack], study.attacks.of(attack)
            for own, other, form in spec.beats:
                if own in forms[attack] and form in forms.get(other, []):
                    found.append(_order(evidence, arm, sources, (attack, own), (other, form)))
            if spec.curve and not spec.universal(settings):
                found.append(_budget(evidence, arm, attack, sources))
            if spec.restarted(settings) and study.attacks.shared.fresh_starts:
                found.append(_converged(evidence, arm, attack, sources))
            tables = [
                evidence.attacks[run][attack].get(primary_variant(study, attack)) for run in evidence.runs_of(arm)
            ]
            if tables and all(table is not None and table.ceiling is not None for table in tables):
                found.append(_ceiling(evidence, arm, attack))
            if attack in study.attacks.transfer:
                found.append(_against_transfer(evidence, arm, attack, replays.strongest.get(attack, {}), sources))
            if arm in replays.crossed.get(attack, {}):
                found.append(_crossed(evidence, arm, attack, replays.crossed[attack], sources))
            if spec.guided and not spec.universal(settings) and arm != study.report.baseline:
                found.append(_masked(evidence, arm, attack, sources))
    return found
