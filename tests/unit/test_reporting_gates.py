"""Gates pass, fail and stay silent for the right reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from isotone.records import Json
from isotone.reporting.analysis.gates import gates
from isotone.reporting.analysis.numbers import Sources
from isotone.reporting.analysis.replays import transfer
from isotone.reporting.evidence.read import Evidence, load_evidence
from synthetic_study import Planted, study_settings, write_study


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    study = study_settings(
        arms=("baseline", "mlp_in"), seeds=(7, 8), attacks=("hotflip", "uat", "query", "random"), documents=24, resamples=300, transfer=("hotflip",)
    )  # fmt: skip
    return load_evidence(study, write_study(tmp_path, study, Planted()))


def found(evidence: Evidence, arm: str = "mlp_in") -> dict[str, Json]:
    sources = Sources(evidence)
    _, replays = transfer(evidence, sources)
    return {gate["gate"]: gate for gate in gates(evidence, sources, replays) if gate["arm"] == arm}


def test_the_diagonal_of_a_transfer_matrix_is_between_seeds(evidence: Evidence) -> None:
    """A run that replays its own flips is no transfer."""
    table, _ = transfer(evidence, Sources(evidence))
    J = []
    for target, source in ((7, 8), (8, 7)):
        lines = (evidence.folder / f"transfer/hotflip/mlp_in-seed-{target}.jsonl").read_text().split("\n")[:-1]
        J += [
            row["J"]
            for row in map(json.loads, lines)
            if row["source"] == f"mlp_in/seed-{source}" and row["variant"] == "greedy"
        ]
    cell = table["hotflip"]["matrix"]["mlp_in"]["mlp_in"]
    assert len(J) == 2 * 24 and cell["pairs"] == 2
    assert cell["value"] == pytest.approx(np.mean(J))


def shift(evidence: Evidence, attack: str, variant: str, by: float, arm: str = "mlp_in") -> None:
    for run in evidence.runs_of(arm):
        evidence.attacks[run][attack][variant].columns["J"] += by


def test_a_sound_study_passes_them_all(evidence: Evidence) -> None:
    states = {name: gate["state"] for name, gate in found(evidence).items()}
    assert set(states.values()) == {"pass"}, states
    assert len(states) == 11


@pytest.mark.parametrize(
    ("gate", "attack", "variant"),
    [
        ("hotflip greedy >= hotflip one_shot", "hotflip", "greedy"),
        ("hotflip greedy >= query greedy", "hotflip", "greedy"),
        ("query greedy >= random best_of_n", "query", "greedy"),
        ("hotflip >= transfer", "hotflip", "greedy"),
        ("hotflip: own gradients >= crossed gradients", "hotflip", "greedy"),
        ("hotflip: a fresh start gains less than 2 %", "hotflip", "greedy~restart"),
    ],
)
def test_each_fails_alone_when_its_order_breaks(evidence: Evidence, gate: str, attack: str, variant: str) -> None:
    if variant == "greedy~restart":
        run = evidence.runs_of("mlp_in")[0]
        evidence.attacks[run][attack][variant].columns["J"] *= 1.05
    else:
        shift(evidence, attack, variant, -0.5)
    after = found(evidence)
    assert after[gate]["state"] == "fail"
    assert found(evidence, "baseline")[gate]["state"] == "pass"  # the other arm is not touched
    if after[gate]["violations"] is not None and "fresh" not in gate:
        assert after[gate]["violations"] > 0.7 and after[gate]["difference"]["value"] < 0


def test_the_rule_is_the_lower_bound_not_the_mean(evidence: Evidence) -> None:
    """A mean above zero that chance explains does not pass."""
    for run in evidence.runs_of("mlp_in"):
        tables = evidence.attacks[run]
        noise = np.random.default_rng(0).normal(0, 0.5, 24)
        noise += 0.05 - noise.mean()
        tables["query"]["greedy"].columns["J"] = tables["hotflip"]["greedy"].columns["J"] - noise
    gate = found(evidence)["hotflip greedy >= query greedy"]
    assert gate["difference"]["interval"][0] < 0 < gate["difference"]["value"]
    assert gate["state"] == "fail"


def test_equal_attacks_pass(evidence: Evidence) -> None:
    for run in evidence.runs_of("mlp_in"):
        tables = evidence.attacks[run]["hotflip"]
        tables["one_shot"].columns["J"] = tables["greedy"].columns["J"].copy()
    gate = found(evidence)["hotflip greedy >= hotflip one_shot"]
    assert gate["state"] == "pass" and gate["violations"] == 0


def test_damage_that_falls_with_the_budget_fails(evidence: Evidence) -> None:
    for run in evidence.runs_of("mlp_in"):
        table = evidence.attacks[run]["query"]["greedy"]
        assert table.curve_NK is not None
        table.curve_NK = table.curve_NK[:, ::-1]
    assert found(evidence)["query: J grows with the budget"]["state"] == "fail"


def test_masked_gradients_are_noticed(evidence: Evidence) -> None:
    """Judged over all proposals: the ranks of accepted flips alone stay as they were."""
    name = "hotflip: gradients rank proposals as well as on the baseline"
    assert found(evidence)[name]["state"] == "pass" and found(evidence)[name]["correlation"] == pytest.approx(
        0.5, abs=0.05
    )
    for run in evidence.runs_of("mlp_in"):
        evidence.attacks[run]["hotflip"]["greedy"].columns["proposal_correlation"] -= 0.3
    assert found(evidence)[name]["state"] == "fail" and "all proposals 0.2" in found(evidence)[name]["why"]
    for run in evidence.runs_of("mlp_in"):
        del evidence.attacks[run]["hotflip"]["greedy"].columns["proposal_correlation"]
    assert found(evidence)[name]["state"] == "not run"


def strip(evidence: Evidence, change: Any) -> None:
    for run in evidence.runs_of("mlp_in"):
        change(evidence.attacks[run])


def test_what_was_not_measured_is_not_run_and_says_why(evidence: Evidence) -> None:
    def change(attacks: dict) -> None:
        attacks["hotflip"].pop("greedy~restart", None)
        attacks["hotflip"].pop("one_shot")
        del attacks["hotflip"]["greedy"].columns["proposal_correlation"]
        attacks["query"]["greedy"].curve_NK = None

    strip(evidence, change)
    after = found(evidence)
    silent = {name: gate["why"] for name, gate in after.items() if gate["state"] == "not run"}
    assert len(silent) == 4 and all(silent.values())
    assert silent["hotflip greedy >= hotflip one_shot"] == "hotflip one_shot is not part of this study"


def test_a_ceiling_that_came_first_is_said(evidence: Evidence) -> None:
    name = "hotflip: the search ends before its ceiling"
    assert name not in found(evidence)  # no ceiling was set, so there is nothing to judge
    tables = [evidence.attacks[run]["hotflip"]["greedy"] for run in evidence.runs_of("mlp_in")]
    for table in tables:
        table.ceiling = np.zeros(24, bool)
    gate = found(evidence)[name]
    assert (gate["state"], gate["violations"]) == ("pass", 0) and "every search ended by itself" in gate["why"]
    tables[1].ceiling[:6] = True
    gate = found(evidence)[name]
    assert (gate["state"], gate["violations"]) == ("fail", 6 / 48)
    assert gate["why"] == "the ceiling came first on 6 of 48 documents, so the search has not converged"
    tables[0].ceiling = None  # made by an older version, or without a ceiling
    assert name not in found(evidence)
