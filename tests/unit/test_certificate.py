from __future__ import annotations

import models_zoo as zoo
import pytest
import torch
from isotone.config.constraint import Constraint
from isotone.constraints import certify, constrain
from isotone.constraints.certificate import falling_share, moved_share, smallest_jacobian
from isotone.constraints.paths import lowest_pre_activations, path_of
from isotone.constraints.scopes import constrained
from isotone.models import family_of
from isotone.records import canonical_json

IDS = zoo.random_ids(4, 24)
BOTH = Constraint(scope="mlp_both", init="abs")
GATED = Constraint(scope="gated_all", init="abs")


def certificate(family, constraint, **more):
    return certify(constrain(zoo.tiny(family, **more), constraint, IDS), constraint, IDS)


@pytest.mark.parametrize("family", zoo.EARLIER)
def test_every_family_gets_a_certificate_of_plain_numbers(family):
    constraint = GATED if family_of(zoo.tiny(family)).gated else BOTH
    found = certificate(family, constraint)
    canonical_json(found)  # no NaN, no tensors
    assert all(layer["negatives"] == 0 and layer["smallest_weight"] > 0 for layer in found["layers"])
    relu = family in ("opt", "t5")
    assert found["verdict"] == ("certified" if relu else "conditional")
    assert found["vacuous"] == (family in (*zoo.CENTRING, "olmo"))


def test_relu_nets_of_non_negative_weights_keep_order():
    found = certificate("opt", BOTH)
    for test in (found["ordered_pairs"], found["ordered_pairs"]["far"]):
        assert test["violations"] == 0 and test["pairs"] >= 96 * 2
    for layer in found["layers"]:
        assert layer["smallest_jacobian"] >= 0
        assert layer["monotone_units"] == layer["units"] == 64
        assert layer["falling_share"] == layer["falling_share_upper"] == layer["worst_violation"] == 0


def test_gelu_nets_of_non_negative_weights_do_not():
    found = certificate("gpt_neox", BOTH)
    far = found["ordered_pairs"]["far"]
    assert far["violations"] > 0 and far["worst_violation"] > 0
    for layer in found["layers"]:
        assert layer["verdict"] == "conditional" and layer["smallest_jacobian"] < 0
        assert 0 < layer["falling_share"] < layer["falling_share_upper"] <= 1
        assert layer["monotone_units"] < layer["units"]


def test_signed_weights_do_not_keep_order_even_with_relu():
    found = certify(zoo.tiny("opt"), Constraint(), IDS)
    assert found["verdict"] == "not_monotone_by_design" and not found["vacuous"]
    assert found["ordered_pairs"]["violations"] > 0
    assert all(layer["smallest_weight"] is None and layer["smallest_jacobian"] < 0 for layer in found["layers"])


@pytest.mark.parametrize("family", ["opt", "gpt2"])
def test_one_negative_weight_is_seen(family):
    model = constrain(zoo.tiny(family), BOTH, IDS)
    last = constrained(model, BOTH)[-1]
    with torch.no_grad():
        last.parameter[3, 5] = -1e-7
    found = certify(model, BOTH, IDS)
    assert found["verdict"] == "violated"
    assert [layer["negatives"] for layer in found["layers"]] == [0, 1]
    assert found["layers"][1]["smallest_weight"] == pytest.approx(-1e-7)
    if family == "opt":  # its ReLU never falls: only the unit behind that weight is not provably monotone
        assert [layer["units"] - layer["monotone_units"] for layer in found["layers"]] == [0, 1]


def test_no_fall_in_the_sample_bounds_the_share_by_the_rule_of_three():
    model = constrain(zoo.tiny("gpt_neox"), BOTH)
    sublayer = family_of(model).sublayers(model)[0]
    with torch.no_grad():
        sublayer.entrances[0].bias.fill_(100.0)  # far on GELU's rising side
    path = path_of(model, sublayer, "gelu", "elementwise")
    assert falling_share(path, torch.randn(4, 25, zoo.WIDTH)) == (0.0, 0.03)


@pytest.mark.parametrize(
    ("family", "constraint"),
    [
        ("opt", Constraint(scope="mlp_in", init="abs")),
        ("opt", Constraint(scope="mlp_in_attn_out", init="abs")),
        ("llama", Constraint(scope="gated_updown", init="abs")),
        ("opt", Constraint(scope="mlp_both", map="sign_frozen")),
        ("opt", Constraint(scope="mlp_both", map="free", init="abs")),
        ("opt", Constraint(scope="mlp_both", init="abs", layers=[0])),
        ("opt", Constraint(init="no_ffn")),
    ],
)
def test_paths_with_a_signed_matrix_are_not_monotone_by_design(family, constraint):
    found = certificate(family, constraint)
    assert found["verdict"] == "not_monotone_by_design"
    assert found["vacuous"] == (family == "opt" and constraint.scope != "none" and constraint.map == "softplus")


def test_a_violation_is_worse_than_a_design():
    constraint = Constraint(scope="mlp_in", init="abs")
    model = constrain(zoo.tiny("opt"), constraint)
    with torch.no_grad():
        constrained(model, constraint)[0].parameter[0, 0] = -1.0
    assert certify(model, constraint, IDS)["verdict"] == "violated"


def test_a_gated_product_is_conditional_whatever_the_weights():
    found = certificate("llama", GATED, hidden_act="relu")
    assert found["verdict"] == "conditional"
    assert all(layer["falling_share"] > 0 for layer in found["layers"])  # relu(g) u falls in g where u < 0


def test_the_strict_cone_is_not_vacuous_and_names_its_space():
    constraint = Constraint(scope="mlp_both", init="abs", cone="strict")
    found = certificate("opt", constraint)
    assert found["verdict"] == "certified" and not found["vacuous"]
    assert {layer["input_space"] for layer in found["layers"]} == {"centred coordinates U^T x"}
    assert found["ordered_pairs"]["violations"] == found["ordered_pairs"]["far"]["violations"] == 0
    assert all(layer["smallest_jacobian"] >= 0 for layer in found["layers"])
    elementwise = certify(constrain(zoo.tiny("opt"), constraint), BOTH, IDS)
    assert elementwise["verdict"] == "violated"  # the same weights are signed entry by entry


def test_weights_that_leave_the_centred_space_are_violations():
    constraint = Constraint(scope="mlp_both", init="abs", cone="strict")
    model = constrain(zoo.tiny("opt"), constraint)
    with torch.no_grad():
        constrained(model, constraint)[0].parameter[0] += 0.01  # along the all-ones direction: no coordinate moves
    assert certify(model, constraint, IDS)["verdict"] == "violated"


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
def test_the_path_is_the_sublayer(family):
    model = zoo.tiny(family).double()
    sublayer = family_of(model).sublayers(model)[1]
    name = model.config.activation_function if family == "gpt2" else model.config.hidden_act
    path = path_of(model, sublayer, name, "elementwise")
    block = model.get_submodule(sublayer.name)
    x = torch.randn(1, 5, zoo.WIDTH, dtype=torch.float64)
    torch.testing.assert_close(path(x[0]), block.mlp(x)[0])


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_sampled_jacobian_entries_are_those_of_autograd(family):
    constraint = GATED if family == "llama" else BOTH
    model = constrain(zoo.tiny(family), constraint)
    sublayer = family_of(model).sublayers(model)[0]
    path = path_of(model, sublayer, model.config.hidden_act, "elementwise")
    x = torch.randn(4, zoo.WIDTH, dtype=torch.float64)
    full = torch.stack([torch.autograd.functional.jacobian(lambda row: path(row[None])[0], row) for row in x])
    assert smallest_jacobian(path, x) == pytest.approx(float(full.min()), rel=1e-9)


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_no_text_gets_below_the_lowest_pre_activation(family):
    model = zoo.tiny(family).double()
    sublayer = family_of(model).sublayers(model)[0]
    centring = family_of(model).centring(model)
    x = sublayer.norm(3 * torch.randn(2000, zoo.WIDTH, dtype=torch.float64))
    for entrance, lowest in zip(sublayer.entrances, lowest_pre_activations(sublayer, centring), strict=True):
        assert (entrance.module(x).amin(0) >= lowest).all()
        weight = entrance.weight_OI[0] * sublayer.norm.weight
        worst = -(weight - weight.mean() if centring else weight)  # this input reaches the bound
        reached = entrance.module(sublayer.norm(1e4 * worst))[0]
        assert float(reached) == pytest.approx(float(lowest[0]), rel=1e-4)


def test_the_movement_guard_counts_entries_that_changed():
    model = constrain(zoo.tiny("gpt_neox"), BOTH)
    before = {projection.weight_name: projection.parameter.detach().clone() for projection in constrained(model, BOTH)}
    assert moved_share(model, BOTH, before) == 0
    frozen = certify(model, BOTH, IDS, before=before, stage="trained")
    assert frozen["moved_share"] == 0 and frozen["movement_guard"] is False
    with torch.no_grad():
        for projection in constrained(model, BOTH):
            projection.parameter[: len(projection.parameter) * 3 // 4] *= 1.01
    assert moved_share(model, BOTH, before) == pytest.approx(0.75)
    assert moved_share(model, Constraint(), before) is None


def test_a_pure_bf16_step_moves_no_latent():
    model = constrain(zoo.tiny("gpt_neox"), BOTH)
    from isotone.constraints import weight_maps

    name, mapping = next(iter(weight_maps(model, BOTH).items()))
    V = mapping.inverse(model.get_parameter(name).detach())
    step = 5e-5 * torch.sign(torch.randn_like(V))
    small = V < -2
    assert ((V.bfloat16() + step.bfloat16()) == V.bfloat16())[small].all()
    assert ((V + step) != V)[small].float().mean() > 0.99
