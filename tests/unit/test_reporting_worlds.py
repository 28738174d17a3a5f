"""For each word that the report can say, a world in which it is true, and the neighbouring word false."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from isotone.records import Json
from isotone.reporting import final_results as final
from isotone.reporting.analysis.claims import primary
from isotone.reporting.analysis.numbers import Sources
from isotone.reporting.analysis.verdicts import (
    CANNOT_TELL,
    DEPENDS,
    DISAGREE,
    EQUIVALENT,
    LESS,
    MORE,
    NO_CONTROL,
    UNEQUAL,
)
from isotone.reporting.analysis.words import WORDS, cells_of, headline, verdict_sentence
from isotone.reporting.evidence.read import load_evidence
from synthetic_study import Planted, study_settings, write_study

KINDS = ("tempered", "noised", "early")
STILL = {"seed_spread": 0.002, "noise": 0.01, "clean": {"mlp_in": 0.1}}
LEVEL = {"0.25": (0.6, 0.0), "0.5": (0.2, 0.0), "0.75": (0.05, 0.0)}  # a curve as robust as the baseline


def built(folder: Path, planted: Planted, controls: tuple[str, ...] = KINDS, **settings: Any) -> Json:
    """Cells, verdicts and words of a study of one constrained arm."""
    options: dict[str, Any] = {"arms": ("baseline", "mlp_in"), "attacks": ("hotflip",), "resamples": 400}
    study = study_settings(controls=controls, **(options | settings))
    evidence = load_evidence(study, write_study(folder, study, planted))
    cells, verdicts = primary(evidence, Sources(evidence))
    results: Json = {"primary": cells, "verdicts": verdicts, "settings": final.settings_of(study)}
    said = [verdict_sentence(entry, cells_of(results, entry), results["settings"]) for entry in verdicts]
    return results | {"summary": {"headline": headline(verdicts), "robustness": said}}


WORLDS = {
    "nothing: every control is as robust": (EQUIVALENT, {}),
    "a true effect: the arm loses less than every control": (MORE, {"damage": {"mlp_in": -0.2}}),
    "the opposite": (LESS, {"damage": {"mlp_in": 0.2}}),
    "a temperature world: the arm is the baseline, flattened, so that raw J falls by itself": (
        EQUIVALENT,
        {"temperature": {"mlp_in": -0.3}},
    ),
    "a noised world: the arm is one more noised model": (
        DEPENDS,
        {"damage": {"mlp_in": -0.2}, "control_damage": {"mlp_in~noised": -0.2}},
    ),
    "one control says more, another less": (
        DEPENDS,
        {"control_damage": {"mlp_in~tempered": -0.2, "mlp_in~noised": 0.2}},
    ),
    "less damage but more changed predictions": (
        DISAGREE,
        {"damage": {"mlp_in": -0.2}, "predictions": {"mlp_in": 0.15}},
    ),
    "little data": (CANNOT_TELL, {"damage": {"mlp_in": -0.05}, "seed_spread": 0.1, "noise": 0.1}),
    "an earlier checkpoint of equal loss is as robust, but the baseline is not": (
        EQUIVALENT,
        {
            "damage": {"mlp_in": -0.2},
            "control_damage": {"mlp_in": -0.2},
            "curve": {"0.25": (0.6, -0.8), "0.5": (0.2, -0.4), "0.75": (0.05, -0.1)},
        },
    ),
}


@pytest.mark.parametrize("world", list(WORLDS))
def test_each_world_gets_its_word_and_no_other(tmp_path: Path, world: str) -> None:
    word, planted = WORLDS[world]
    results = built(tmp_path, Planted(**(STILL | planted)))
    (verdict,) = results["verdicts"]
    assert verdict["word"] == word, verdict
    assert set(verdict["controls"]) == set(KINDS) and not verdict["unavailable"]
    said = results["summary"]["headline"]
    assert f"{WORDS[word]}: mlp_in (hotflip" in said
    assert not any(
        f" {WORDS[other]}: " in said
        for other in (MORE, LESS, EQUIVALENT, DEPENDS, DISAGREE, CANNOT_TELL)
        if other != word
    )


def test_a_dependence_names_which_control_says_what(tmp_path: Path) -> None:
    _, planted = WORLDS["one control says more, another less"]
    results = built(tmp_path, Planted(**(STILL | planted)))
    assert results["verdicts"][0]["controls"] == {"tempered": LESS, "noised": MORE, "early": EQUIVALENT}
    which = "more robust than noised; less robust than tempered; equivalent to early"
    assert which in results["summary"]["headline"] and which in results["summary"]["robustness"][0]


@pytest.mark.parametrize(("harm", "word"), [(0.02, EQUIVALENT), (0.2, LESS)])
def test_no_window_turns_a_verdict(tmp_path: Path, harm: float, word: str) -> None:
    """The same damage in a window four times as long: J falls to a quarter, and what is said stays."""
    found = []
    for dilution in (1, 4):
        planted = Planted(**(STILL | {"damage": {"mlp_in": harm}, "dilution": dilution}))
        results = built(tmp_path / str(dilution), planted)
        cell = results["primary"][0]
        found.append((results["verdicts"][0]["word"], cell["outcomes"]["damage_cal"]["difference"]["value"]))
        J = cell["beside"]["J"]["value"]
        assert pytest.approx(-harm * 115 / (120 * dilution - 5), abs=0.02 / dilution) == J
    assert [each for each, _ in found] == [word, word]
    assert found[0][1] == pytest.approx(found[1][1])


def test_a_temperature_alone_is_no_control(tmp_path: Path) -> None:
    results = built(tmp_path, Planted(**(STILL | {"damage": {"mlp_in": -0.2}})), controls=("tempered",))
    assert results["verdicts"][0]["word"] == NO_CONTROL and results["primary"][0]["verdict"] == MORE
    assert "no claim of robustness" in results["summary"]["headline"]
    assert "only a temperature was tried" in results["summary"]["robustness"][0]


def test_a_control_of_another_quality_is_shown_and_not_counted(tmp_path: Path) -> None:
    planted = Planted(**(STILL | {"control_damage": {"mlp_in~noised": -0.4}, "apart": {"mlp_in~noised": 0.2}}))
    results = built(tmp_path, planted)
    (verdict,) = results["verdicts"]
    assert verdict["controls"] == {"tempered": EQUIVALENT, "noised": UNEQUAL, "early": EQUIVALENT}
    assert verdict["word"] == EQUIVALENT
    noised = next(cell for cell in results["primary"] if cell["control"] == "noised")
    assert noised["p_adjusted"] is None and noised["mismatch"]["value"] == pytest.approx(0.2)
    assert "noised not of equal quality and not counted" in results["summary"]["robustness"][0]


def test_unconstrained_arms_that_were_trained_less_are_points_of_the_curve(tmp_path: Path) -> None:
    """They are hurt more at the arm's loss; the checkpoints, far away and hurt less, would say the opposite."""
    far = {"0.25": (2.0, -1.0), "0.5": (1.5, -1.0), "0.75": (1.2, -1.0)}
    clean = {"mlp_in": 0.1, "baseline_short": 0.05, "baseline_shorter": 0.2}
    planted = STILL | {"clean": clean, "curve": far}
    arms = ("baseline", "baseline_short", "baseline_shorter", "mlp_in")
    hurt = {"damage": {"baseline_short": 0.3, "baseline_shorter": 0.3}}
    with_them = built(tmp_path / "with", Planted(**(planted | hurt)), controls=("early",), arms=arms)
    without = built(tmp_path / "without", Planted(**(planted | hurt)), controls=("early",))
    words = [[verdict["controls"] for verdict in results["verdicts"]] for results in (with_them, without)]
    assert words == [[{"early": MORE}], [{"early": LESS}]]
    (cell,) = with_them["primary"]
    assert cell["outcomes"]["damage_cal"]["difference"]["value"] == pytest.approx(0.3 * 115 / 5, rel=0.05)


def test_an_arm_outside_the_curve_has_no_such_control(tmp_path: Path) -> None:
    curve = {"0.25": (0.09, 0.0), "0.5": (0.05, 0.0), "0.75": (0.02, 0.0)}
    results = built(tmp_path, Planted(**(STILL | {"curve": curve})))
    (verdict,) = results["verdicts"]
    assert "early" not in verdict["controls"] and "outside the curve" in verdict["unavailable"]["early"]
    assert "Not made: early" in results["summary"]["robustness"][0]


def test_an_arm_as_good_as_the_baseline_is_compared_with_it(tmp_path: Path) -> None:
    planted = Planted(**(STILL | {"clean": {"lift": 0.01}}))
    results = built(tmp_path, planted, arms=("baseline", "lift"))
    (verdict,) = results["verdicts"]
    assert verdict["controls"]["baseline"] == EQUIVALENT and verdict["word"] == EQUIVALENT
