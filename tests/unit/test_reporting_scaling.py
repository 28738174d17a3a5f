"""The figure of a scaling study: loss and damage against tokens, where arms differ in nothing else."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from isotone.records import Json
from isotone.reporting import final_results as final
from isotone.reporting.figures import scaling
from isotone.reporting.figures.draw import painters
from isotone.reporting.figures.style import save
from synthetic_study import Planted, study_settings, write_study

# Steps of the arms of config/scaling-data.yaml, of 65 536 tokens each; out of order on purpose.
STEPS = {"baseline": 2290, "both_10k": 229, "both_1k": 23, "both_100k": 2290}
TOKENS = {arm: steps * 65_536 for arm, steps in STEPS.items()}
DAMAGE = {"both_1k": 0.4, "both_10k": 0.2, "both_100k": 0.05}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Json:
    study = study_settings(arms=tuple(STEPS), seeds=(7, 8), attacks=("hotflip", "random"), documents=8, resamples=200)
    planted = Planted(damage=DAMAGE, clean={"both_1k": 1.0, "both_10k": 0.5, "both_100k": 0.2})
    top = write_study(tmp_path_factory.mktemp("results") / "synthetic", study, planted)
    found = final.build(study, top)["results"]
    for key, run in found["training"].items():
        arm, _, kind = key.rpartition("/")[0].partition("~")
        run["tokens"] = 0 if kind else TOKENS[arm]
    for arm, settings in found["settings"]["arms"].items():
        settings["training"] = {"max_steps": STEPS[arm]} if arm != "both_100k" else {}
    return found


def test_arms_of_one_constraint_are_a_ladder_by_tokens(results: Json) -> None:
    assert scaling.ladders(results) == [["baseline"], ["both_1k", "both_10k", "both_100k"]]


@pytest.mark.parametrize("change", ["constraint", "rate"])
def test_an_arm_that_differs_in_more_stands_alone(results: Json, change: str) -> None:
    other = copy.deepcopy(results)
    settings = other["settings"]["arms"]["both_10k"]
    if change == "rate":
        settings["training"]["learning_rate"] = 1.0
    else:
        settings["constraint"]["scope"] = "mlp_in"
    assert ["both_1k", "both_100k"] in scaling.ladders(other) and ["both_10k"] in scaling.ladders(other)


def test_equal_budgets_are_no_scaling_study(results: Json) -> None:
    other = copy.deepcopy(results)
    for run in other["training"].values():
        run["tokens"] = 1000
    assert scaling.ladders(other) == [] and scaling.scaling(other) is None


def test_the_figure_shows_loss_and_damage_at_each_number_of_tokens(results: Json, tmp_path: Path) -> None:
    figure = painters({"results": results}, tmp_path)["scaling"]()
    losses, hotflip, random, empty = figure.axes
    for axes, value in (
        (losses, lambda arm: results["quality"][arm]["rolling"]["nats_per_token"]),
        (hotflip, lambda arm: results["damage"][arm]["hotflip"]["greedy"]["J"]),
        (random, lambda arm: results["damage"][arm]["random"]["best_of_n"]["J"]),
    ):
        assert axes.get_xscale() == "log" and "tokens" in axes.get_xlabel()
        lines = {line.get_label(): line for line in axes.get_lines()}
        climb = lines["both_1k ... both_100k"]
        assert list(climb.get_xdata()) == [TOKENS[arm] for arm in DAMAGE]
        assert list(climb.get_ydata()) == [value(arm)["value"] for arm in DAMAGE]
        assert climb.get_ydata()[0] > climb.get_ydata()[1] > climb.get_ydata()[2]
        assert list(lines["baseline"].get_xdata()) == [TOKENS["baseline"]]
    controls = {line.get_label(): line for line in hotflip.get_lines()}["both_1k ... both_100k, tempered controls"]
    assert list(controls.get_xdata()) == [TOKENS[arm] for arm in DAMAGE]
    assert not empty.get_visible()
    save(figure, tmp_path, "scaling")
    assert (tmp_path / "scaling.pdf").stat().st_size > 5000
