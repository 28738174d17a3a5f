"""Every cell of the printed verdicts against an independent program that sees rows alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import recompute
from isotone.records import Json
from isotone.reporting import final_results as final
from isotone.reporting.tables.study import write_tables
from synthetic_study import Planted, study_settings, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Json]:
    """Four arms in four worlds: more robust, depends, unequal control, lift."""
    settings = study_settings(
        arms=("baseline", "baseline_short", "mlp_in", "mlp_both", "lift"),
        attacks=("hotflip", "uat"),
        control_attacks=("hotflip", "uat"),
        controls=("tempered", "noised", "early"),
        resamples=300,
        documents=16,
    )
    planted = Planted(
        damage={"mlp_in": -0.25},
        control_damage={"mlp_both~noised": 0.2, "mlp_both~tempered": -0.2},
        apart={"lift~noised": 0.2},
        clean={"mlp_in": 0.1, "mlp_both": 0.3, "lift": 0.01, "baseline_short": 0.12},
        noise=0.02,
        seed_spread=0.003,
    )
    folder = write_study(tmp_path_factory.mktemp("study"), settings, planted)
    document = final.build(settings, folder)
    write_tables(folder / "tables", document)
    return folder, document["results"]


def test_every_cell_comes_out_again(study: tuple[Path, Json]) -> None:
    folder, results = study
    again = recompute.cells(folder, results)
    assert len(results["primary"]) == len(again) > 12
    for cell in results["primary"]:
        entry = again[cell["arm"], cell["attack"], cell["control"]]
        assert cell["mismatch"]["value"] == pytest.approx(entry["mismatch"], abs=1e-9)
        assert cell["p_adjusted"] == pytest.approx(entry.get("p_adjusted"), rel=1e-4)
        assert cell["verdict"] == entry["verdict"]
        for key, column in (("predictions", "changed_predictions"), ("damage", "damage_cal")):
            difference = cell["outcomes"][column]["difference"]
            assert [difference["value"], *difference["interval"]] == pytest.approx(entry[key][:3], rel=1e-6, abs=1e-9)
    words = {cell["verdict"] for cell in results["primary"]}
    assert len(words) >= 4, words  # the worlds say different things


def test_the_printed_tables_say_the_same(study: tuple[Path, Json]) -> None:
    folder, results = study
    again = recompute.cells(folder, results)
    with open(folder / "tables/verdicts.csv", newline="") as file:
        printed = list(csv.DictReader(file))
    assert len(printed) == len(results["verdicts"])
    plain = {"unequal_quality": "not of equal quality", "outcomes_disagree": "the outcomes disagree"}
    plain |= {"depends_on_the_control": "depends on the control", "no_control": "no control of equal quality"}
    for row in printed:
        own = {key[2]: entry["verdict"] for key, entry in again.items() if key[:2] == (row["arm"], row["attack"])}
        for control, verdict in own.items():
            assert row[control] == plain.get(verdict, verdict.replace("_", " "))
        word = recompute.overall(own)
        assert row["word"] == plain.get(word, word.replace("_", " "))
