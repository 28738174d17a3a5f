from __future__ import annotations

import importlib.util
import math
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from isotone.controls.selection import Measured, choose
from isotone.errors import ConfigurationError
from isotone.records import write_json
from isotone.schema import merge
from isotone.studies.study import read_study


def arm(name, ratio, damage, **controls):
    return Measured(name, [1 + math.log(ratio)] * 2, [1.0] * 2, [damage] * 2, {k: [v] * 2 for k, v in controls.items()})


def test_excess_is_taken_over_the_hardest_control_and_the_ceiling_is_not_relaxed():
    good = arm("good", 1.2, 0.5, tempered=0.7, noised=0.6)
    better = arm("better", 2.0, 0.1, tempered=0.9, noised=0.9)
    alone = arm("alone", 1.1, 0.1)
    assert good.excess == pytest.approx(0.1) and good.ratio == pytest.approx(1.2) and alone.excess is None
    assert choose([good, better, alone], 1.5) is good
    assert choose([good, better, alone], 2.5) is better
    assert choose([good, better, alone], 1.0) is None


def test_an_arm_that_is_less_robust_than_its_controls_may_still_be_the_best():
    assert choose([arm("a", 1.1, 0.9, tempered=0.7), arm("b", 1.1, 0.8, tempered=0.7)], 1.5).arm == "b"


rows = st.lists(st.tuples(st.floats(1, 3), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8)


@given(rows, st.floats(1, 3))
def test_no_eligible_arm_beats_the_winner(values, ceiling):
    arms = [arm(f"arm{i}", ratio, damage, tempered=null) for i, (ratio, damage, null) in enumerate(values)]
    winner = choose(arms, ceiling)
    fit = [each for each in arms if each.ratio <= ceiling]
    assert (winner is None) == (not fit)
    if winner:
        assert winner.ratio <= ceiling and all(each.excess <= winner.excess for each in fit)
        assert choose(arms[::-1], ceiling) is winner


@pytest.fixture
def sweep(root, monkeypatch):
    spec = importlib.util.spec_from_file_location("program_sweep", root / "scripts/sweep.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def configurations(root):
    return [root / "config/config.yaml", root / "config/overlays/sweep.yaml"]


def plant(sweep, root, results, damage, loss):
    """Markers of a trained and attacked sweep; ``damage`` and ``loss`` by arm."""
    study = sweep.study_of(configurations(root))
    folder = results / study.study
    write_json(folder / "sweep/documents/manifest.json", {})
    for name, seed in study.runs():
        result = {"best": {"loss": loss.get(name, 3.5)}}
        if name == "strict~noised":
            result["control"] = {"found": False}
        write_json(folder / f"runs/{name}/seed-{seed}/train.json", {"result": result})
        write_json(
            folder / f"sweep/{name}/seed-{seed}/hotflip.json", {"result": {"greedy": {"J_mean": damage.get(name, 0.7)}}}
        )
    return folder


def run(sweep, root, tmp_path, monkeypatch, *more):
    names = [str(path) for path in configurations(root)]
    where = ["--results", str(tmp_path / "results"), "--winner", str(tmp_path / "winner.yaml")]
    monkeypatch.setattr(sys, "argv", ["sweep", *names, *where, *more])
    return sweep.main()


def test_the_program_writes_an_overlay_that_leaves_reference_and_winner(sweep, root, tmp_path, monkeypatch, capsys):
    damage = {"strict": 0.4, "lift": 0.6, "mlp_both": 0.1}
    plant(sweep, root, tmp_path / "results", damage, {"baseline": 3.4, "mlp_both": 4.4})
    assert not run(sweep, root, tmp_path, monkeypatch)
    shown = capsys.readouterr().out
    assert "winner: strict" in shown and "above the ceiling of 1.5" in shown
    raw = yaml.safe_load(configurations(root)[0].read_text())
    raw = merge(raw, yaml.safe_load((tmp_path / "winner.yaml").read_text()))
    study = read_study(raw, "winner")
    assert study.study == "kjv" and set(study.arms) == {"baseline", "strict"}
    assert study.arms["strict"].constraint.cone == "strict"
    assert study.training_of("strict").distillation.alpha == 0.5


def test_without_an_arm_under_the_ceiling_nothing_is_written(sweep, root, tmp_path, monkeypatch):
    plant(sweep, root, tmp_path / "results", {}, {"baseline": 3.0})
    with pytest.raises(ConfigurationError, match=r"none wins.*not relaxed"):
        run(sweep, root, tmp_path, monkeypatch, "--ceiling", "1.01")
    assert not (tmp_path / "winner.yaml").exists()


def test_an_untrained_sweep_names_what_to_run(sweep, root, tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match="train_all"):
        run(sweep, root, tmp_path, monkeypatch)
