"""Every constrained arm against every control of equal quality: outcomes, intervals, one verdict per control."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isotone.config.report import Report
from isotone.records import Json
from isotone.reporting.analysis.comparisons import claim_of, plain
from isotone.reporting.analysis.numbers import Sources, number
from isotone.reporting.analysis.outcomes import BESIDE, CLAIMED, margins
from isotone.reporting.analysis.verdicts import UNEQUAL, against_one, joint_p, over_all, plan, side
from isotone.reporting.evidence.expected import Run, primary_variant
from isotone.reporting.evidence.read import Evidence
from isotone.statistics import adjust, cohens_d_paired, sign_flip_floor
from isotone.statistics.curve import OffCurve, interpolated


@dataclass(frozen=True)
class Control:
    """Runs that stand for one control of one arm.

    Attributes:
        kind: ``tempered``, ``noised``, ``early``, ``baseline``, or the name of an arm without the constraint.
        runs: seed of the arm to the runs that are averaged, or, on a curve, read off at the arm's loss.
        curve: whether ``runs`` are points of a curve.
    """

    kind: str
    runs: dict[int, list[Run]]
    curve: bool = False


def controls_of(evidence: Evidence, arm: str) -> list[Control]:
    """The controls of an arm that could be made, in the order of the settings."""
    study = evidence.study
    seeds = [run.seed for run in evidence.runs_of(arm)]
    baseline = {run.seed: run for run in evidence.runs_of(study.report.baseline)}
    found = []
    for kind in study.controls.kinds:
        if kind == "early":
            points = [run for name in study.curve_runs() for run in evidence.runs_of(name)]
            shorter = [evidence.runs_of(name) for name in study.shorter_arms()]
            runs = {}
            for seed in seeds:
                own = [run for found_runs in shorter for run in found_runs if run.seed == seed or len(found_runs) == 1]
                if seed in baseline and points + own:
                    runs[seed] = [*points, *own, baseline[seed]]
            found += [Control(kind, runs, curve=True)] if runs else []
        else:
            runs = {run.seed: [run] for run in evidence.runs_of(f"{arm}~{kind}")}
            found += [Control(kind, runs)] if runs else []
    for name in study.unconstrained_twins(arm):
        found.append(Control(name, {run.seed: [run] for run in evidence.runs_of(name)}))
    if study.controls.kinds and _equal(evidence, arm, baseline):
        found.append(Control("baseline", {seed: [baseline[seed]] for seed in seeds if seed in baseline}))
    return found


def _equal(evidence: Evidence, arm: str, baseline: dict[int, Run]) -> bool:
    """Whether the baseline itself is of the arm's quality, on the texts of every attack."""
    pairs = [(run, baseline[run.seed]) for run in evidence.runs_of(arm) if run.seed in baseline]
    apart = [
        np.mean([_clean(evidence, other, attack) - _clean(evidence, run, attack) for run, other in pairs])
        for attack in evidence.study.controls.attacks
        if attack in evidence.study.attacks.run and pairs
    ]
    return bool(apart) and float(np.abs(apart).max()) <= evidence.study.report.mismatch


def _clean(evidence: Evidence, run: Run, attack: str) -> float:
    return float(_column(evidence, run, attack, primary_variant(evidence.study, attack), "clean_nll").mean())


def _column(evidence: Evidence, run: Run, attack: str, variant: str, key: str) -> np.ndarray:
    return evidence.attacks[run][attack][variant].columns[key]


def _values(
    evidence: Evidence, arm: str, control: Control, attack: str, variant: str, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """(control, arm), each one row per seed and one column per document.

    Raises:
        OffCurve: the arm's loss lies outside the curve.
    """
    theirs, own = [], []
    for seed, runs in control.runs.items():
        values_MN = np.stack([_column(evidence, run, attack, variant, key) for run in runs])
        if control.curve:
            clean_MN = np.stack([_column(evidence, run, attack, variant, "clean_nll") for run in runs])
            target_N = _column(evidence, Run(arm, seed), attack, variant, "clean_nll")
            theirs.append(interpolated(clean_MN, values_MN, target_N))
        else:
            theirs.append(values_MN.mean(0))
        own.append(_column(evidence, Run(arm, seed), attack, variant, key))
    return np.stack(theirs), np.stack(own)


def _has(evidence: Evidence, arm: str, control: Control, attack: str, variant: str, key: str) -> bool:
    runs = [run for group in control.runs.values() for run in group] + [Run(arm, seed) for seed in control.runs]
    return all(key in evidence.attacks[run][attack][variant].columns for run in runs)


def _cell(evidence: Evidence, arm: str, control: Control, attack: str, sources: Sources, family: int) -> Json:
    """One arm against one control under one attack; the verdict follows when all p values are known."""
    report, variant = evidence.study.report, primary_variant(evidence.study, attack)
    seeds = list(control.runs)
    runs = sorted({run for group in control.runs.values() for run in group} | {Run(arm, seed) for seed in seeds})
    rows = sources.attack(runs, attack)

    def measured(key: str, unit: str) -> tuple[np.ndarray, Json, Json]:
        theirs_SN, own_SN = _values(evidence, arm, control, attack, variant, key)
        estimate, test, scope = claim_of(theirs_SN - own_SN, evidence)
        facts = {"seeds": len(seeds), "documents": theirs_SN.shape[1], "scope": scope}
        value = number(estimate, unit, rows, control=float(theirs_SN.mean()), arm=float(own_SN.mean()), **facts)
        return theirs_SN - own_SN, value, plain(test)

    outcomes: Json = {}
    for outcome in CLAIMED:
        differences_SN, difference, test = measured(outcome.column, outcome.unit)
        margin = margins(report)[outcome.column]
        outcomes[outcome.column] = {
            "difference": difference,
            "margin": margin,
            "side": side(difference["interval"], margin),
            "test": test,
            "per_seed": {str(seed): float(row.mean()) for seed, row in zip(seeds, differences_SN, strict=True)},
            "d_paired": cohens_d_paired(differences_SN.mean(0)) if differences_SN.shape[1] > 1 else None,
            "plan": plan(
                differences_SN, smallest_effect=margin, power=report.power, alpha=(1 - report.confidence) / family
            ),
        }
    beside = {
        key: measured(key, unit)[1]
        for key, unit in BESIDE.items()
        if _has(evidence, arm, control, attack, variant, key)
    }
    return {
        "arm": arm,
        "attack": attack,
        "variant": variant,
        "control": control.kind,
        "curve": control.curve,
        "runs": [run.key for run in runs if run.name != arm],
        "outcomes": outcomes,
        "beside": beside,
        "mismatch": measured("clean_nll", "nats/token")[1],
        "p": joint_p(
            [entry["difference"]["value"] for entry in outcomes.values()],
            [entry["test"]["p"] for entry in outcomes.values()],
        ),
        "seed_floor": sign_flip_floor(len(seeds)) if len(seeds) > 1 else None,
    }


def _judge(cells: list[Json], report: Report) -> None:
    """Add adjusted p and verdict to every cell; controls of unequal quality leave the family."""
    counted = []
    for cell in cells:
        if abs(cell["mismatch"]["value"]) > report.mismatch:
            cell |= {"p_adjusted": None, "adjustment": None, "verdict": UNEQUAL}
        else:
            counted.append(cell)
    for cell, p in zip(counted, adjust([cell["p"] for cell in counted], "holm"), strict=True):
        cell["p_adjusted"], cell["adjustment"] = p, f"Holm over {len(counted)} arms x attacks x controls"
        sides = [entry["side"] for entry in cell["outcomes"].values()]
        cell["verdict"] = against_one(sides, p, 1 - report.confidence)


def primary(evidence: Evidence, sources: Sources) -> tuple[list[Json], list[Json]]:
    """One cell per arm, attack and control, and one verdict per arm and attack over all its controls."""
    study = evidence.study
    arms = study.claimed_arms()
    attacked = [name for name in study.attacks.run if name in study.controls.attacks]
    planned = {arm: controls_of(evidence, arm) for arm in arms}
    family = max(1, len(attacked) * sum(len(controls) for controls in planned.values()))
    cells: list[Json] = []
    verdicts: list[Json] = []
    for arm in arms:
        for attack in attacked:
            missing = _missing(evidence, arm)
            for control in planned[arm]:
                if why := _unmeasured(evidence, arm, control, attack):
                    missing[control.kind] = why
                    continue
                try:
                    cells.append(_cell(evidence, arm, control, attack, sources, family))
                except OffCurve as error:
                    missing[control.kind] = str(error)
            verdicts.append(
                {"arm": arm, "attack": attack, "variant": primary_variant(study, attack), "unavailable": missing}
            )
    _judge(cells, study.report)
    for entry in verdicts:
        own = [cell for cell in cells if (cell["arm"], cell["attack"]) == (entry["arm"], entry["attack"])]
        entry["controls"] = {cell["control"]: cell["verdict"] for cell in own}
        entry["word"] = over_all(entry["controls"])
    return cells, verdicts


def _missing(evidence: Evidence, arm: str) -> dict[str, str]:
    """Controls of an arm that could not be made for any seed, and why."""
    return {
        run.kind: reason
        for run, reason in evidence.unavailable.items()
        if run.arm == arm and run.kind and not evidence.runs_of(run.name)
    }


def _unmeasured(evidence: Evidence, arm: str, control: Control, attack: str) -> str:
    """Why a control that exists cannot be compared; empty where it can."""
    if not control.runs:
        return "it shares no seed with the arm"
    variant = primary_variant(evidence.study, attack)
    runs = [run for group in control.runs.values() for run in group] + [Run(arm, seed) for seed in control.runs]
    for run in runs:
        form = evidence.attacks[run].get(attack, {}).get(variant)
        if form is None:
            return f"{attack} did not run on {run.key}"
        for outcome in CLAIMED:
            if outcome.column not in form.columns:
                return f"the rows of {run.key} have no {outcome.title}"
    return ""
