from __future__ import annotations

import os
import subprocess
import sys

import models_zoo as zoo
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from isotone.config.constraint import Constraint
from isotone.constraints import certify, constrain
from isotone.constraints.activations import isotonic_floor
from isotone.errors import ConfigurationError
from isotone.models import family_of, load_model, save_model
from isotone.models.activations import SHAPES, MonotoneActivation, register
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN

IDS = zoo.random_ids(4, 24)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_table_of_turns_and_slopes_is_right(name):
    shape = SHAPES[name]
    x = torch.linspace(-8, 4, 200_001, dtype=torch.float64, requires_grad=True)
    function = ACT2FN[name].double() if hasattr(ACT2FN[name], "double") else ACT2FN[name]
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    x = x.detach()
    assert (slope[x > shape.turn + 1e-6] > 0).all() and (slope[(x < shape.turn - 1e-6) & (x > -6)] < 0).all()
    assert float(slope.min()) == pytest.approx(shape.steepest, abs=1e-9)
    assert float(x[slope.argmin()]) == pytest.approx(shape.at, abs=1e-3)


@pytest.mark.parametrize("name", sorted(SHAPES))
@given(low=st.floats(-12, 12), rise=st.floats(0, 12))
@settings(max_examples=60, deadline=None)
def test_clamped_activations_never_fall(name, low, rise):
    function = MonotoneActivation(name).double()
    pair = torch.tensor([low, low + rise], dtype=torch.float64)
    below, above = function(pair)
    assert above >= below - 1e-12


def test_plain_gelu_falls():
    below, above = ACT2FN["gelu"](torch.tensor([-2.0, -1.0]))
    assert above < below


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_isotonic_floor_matches_the_mean_below_it(name):
    z = torch.from_numpy(np.random.default_rng(0).normal(-0.5, 1.5, 20_000))
    c = isotonic_floor(name, z)
    function = ACT2FN[name]
    assert c >= SHAPES[name].turn
    expected = float(function(z[z < c]).mean())
    assert float(function(torch.tensor(c, dtype=torch.float64))) == pytest.approx(expected, abs=1e-3)

    def error(floor):
        return float((function(z.clamp_min(floor)) - function(z)).square().mean())

    assert error(c) <= error(SHAPES[name].turn) and error(c) <= error(c + 0.05) and error(c) <= error(c - 0.05) + 1e-9


def test_the_isotonic_floor_of_text_that_never_falls_is_the_turn():
    assert isotonic_floor("gelu", torch.tensor([0.5, 2.0])) == pytest.approx(SHAPES["gelu"].turn, abs=1e-5)


@pytest.mark.parametrize("activation", ["clamp", "isotonic", "relu"])
@pytest.mark.parametrize("family", ["gpt_neox", "gpt2"])
def test_with_a_monotone_activation_the_lift_is_certified(family, activation, tmp_path):
    constraint = Constraint(scope="mlp_both", init="lift", activation=activation)
    model = constrain(zoo.tiny(family), constraint, IDS)
    save_model(model, None, tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    found = certify(again, constraint, IDS)
    assert found["verdict"] == "certified" and found["vacuous"]
    assert found["ordered_pairs"]["violations"] == found["ordered_pairs"]["far"]["violations"] == 0
    assert all(layer["smallest_jacobian"] >= -1e-9 for layer in found["layers"])
    assert not torch.equal(model(IDS).logits, zoo.tiny(family)(IDS).logits)


@pytest.mark.parametrize("family", ["t5", "t5_gated", "llama"])
def test_other_families_carry_monotone_activations_through_their_folders(family, tmp_path):
    scope = "mlp_both" if family == "t5" else "gated_all"
    model = zoo.tiny(family, hidden_act="silu") if family == "llama" else zoo.tiny(family)
    if family == "t5":
        model = zoo.tiny("t5", hidden_act="gelu_new")
    constrain(model, Constraint(scope=scope, init="abs", activation="isotonic"), IDS)
    save_model(model, None, tmp_path / "m")
    again = load_model(tmp_path / "m")
    for sublayer in family_of(again).sublayers(again):
        ours, theirs = (each.get_submodule(sublayer.activation_name) for each in (again, model))
        assert isinstance(ours, MonotoneActivation) and torch.equal(ours.floor, theirs.floor)


def test_layers_that_are_not_selected_keep_their_activation():
    constraint = Constraint(scope="mlp_both", init="lift", activation="clamp", layers=[1])
    model = constrain(zoo.tiny("gpt_neox"), constraint, IDS)
    z = torch.linspace(-4, 4, 50)
    first, second = (model.get_submodule(s.activation_name)(z) for s in family_of(model).sublayers(model))
    torch.testing.assert_close(first, ACT2FN["gelu"](z))
    assert not torch.allclose(second, ACT2FN["gelu"](z))
    with pytest.raises(ConfigurationError, match="one activation for all"):
        constrain(zoo.tiny("gpt_neox"), Constraint(scope="mlp_in", init="abs", activation="relu", layers=[1]), IDS)


def test_an_activation_without_a_known_turn_is_refused():
    constraint = Constraint(scope="mlp_both", init="abs", activation="clamp")
    with pytest.raises(ConfigurationError, match=r'"mish" falls.*gelu'):
        constrain(zoo.tiny("gpt_neox", hidden_act="mish"), constraint, IDS)
    assert constrain(zoo.tiny("opt"), constraint, IDS).config.activation_function == "relu"


LOAD = "import isotone.models.activations, sys; from transformers import AutoModelForCausalLM as M; M.from_pretrained(sys.argv[1])"


def test_exported_activations_load_after_their_module_is_imported_and_fail_clearly_without(tmp_path, monkeypatch):
    constraint = Constraint(scope="mlp_both", init="lift", activation="isotonic")
    model = constrain(zoo.tiny("gpt_neox"), constraint, IDS)
    save_model(model, None, tmp_path / "m")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD, str(tmp_path / "m")]
    assert subprocess.run(command, capture_output=True, check=False, env=environment).returncode == 0

    monkeypatch.delitem(ACT2FN, "isotone_gelu")
    with pytest.raises(KeyError, match="isotone_gelu"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    register()  # what `import isotone.models.activations` does
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "m")(IDS).logits, model(IDS).logits)
