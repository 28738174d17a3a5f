from __future__ import annotations

import models_zoo as zoo
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from isotone.config.constraint import Constraint
from isotone.constraints import constrain, guard_precision, weight_maps
from isotone.constraints.lift import FLOOR
from isotone.constraints.scopes import constrained
from isotone.errors import ConfigurationError
from isotone.models import family_of


def logits(model, ids):
    with torch.no_grad():
        return model(ids, decoder_input_ids=ids).logits if model.config.is_encoder_decoder else model(ids).logits


def scope_of(family):
    return "gated_all" if "gate" in str(family_of(zoo.tiny(family)).roles) else "mlp_both"


def smallest(model, constraint):
    return min(float(projection.weight_OI.min()) for projection in constrained(model, constraint))


@pytest.mark.parametrize("family", zoo.EARLIER)
@pytest.mark.parametrize("start", ["abs", "relu"])
def test_abs_and_relu_touch_the_scope_and_nothing_else(family, start):
    before, constraint = zoo.tiny(family), Constraint(scope=scope_of(family), init=start)
    after = constrain(zoo.tiny(family), constraint)
    inside = set(weight_maps(after, constraint))
    for name, parameter in before.named_parameters():
        got = after.get_parameter(name)
        if name not in inside:
            assert torch.equal(got, parameter)
        else:
            expected = (parameter.abs() if start == "abs" else parameter).clamp_min(FLOOR)
            torch.testing.assert_close(got, expected, rtol=3e-6, atol=0)


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("gpt_neox", {"use_parallel_residual": True}),
        ("gpt_neox", {"use_parallel_residual": False}),
        ("gpt2", {}),
        ("opt", {}),
    ],
)
@pytest.mark.parametrize("scope", ["mlp_in", "mlp_both", "mlp_in_attn_out"])
@given(seed=st.integers(0, 2**20))
@settings(max_examples=3, deadline=None)
def test_the_lift_changes_no_logit_on_layer_norm_models(family, more, scope, seed):
    ids = zoo.random_ids(2, 12, seed=seed)
    model = zoo.tiny(family, seed=seed, **more).double()
    before = logits(model, ids)
    constraint = Constraint(scope=scope, init="lift")
    lifted = constrain(model, constraint, ids)
    assert smallest(lifted, constraint) >= FLOOR * (1 - 1e-9)
    assert (logits(lifted, ids) - before).abs().max() <= 1e-9
    assert any((parameter < 0).any() for parameter in zoo.tiny(family, seed=seed, **more).parameters())


def test_the_same_constants_on_an_rms_norm_model_do_change_logits():
    from isotone.constraints.lift import lift_columns, lift_rows

    model, ids = zoo.tiny("llama").double(), zoo.random_ids(2, 12)
    before = logits(model, ids)
    for projection in constrained(model, Constraint(scope="gated_all", init="lift")):
        (lift_columns if projection.role == "ffn_out" else lift_rows)(projection)
    assert (logits(model, ids) - before).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "t5"])
def test_a_lift_without_centring_norms_is_refused(family):
    with pytest.raises(ConfigurationError, match=r"norms that centre.*rotate_center"):
        constrain(zoo.tiny(family), Constraint(scope=scope_of(family), init="lift"), zoo.random_ids(1, 8))
    with pytest.raises(ConfigurationError, match="norms that centre"):
        constrain(zoo.tiny(family), Constraint(scope=scope_of(family), init="abs", cone="strict"))


def test_opt_with_norms_behind_its_sublayers_cannot_be_lifted():
    with pytest.raises(ConfigurationError, match="in front of every sublayer"):
        constrain(zoo.tiny("opt", do_layer_norm_before=False), Constraint(scope="mlp_both", init="lift"))


def test_lifted_weights_do_not_survive_bf16():
    model, ids = zoo.tiny("gpt_neox"), zoo.random_ids(2, 12)
    before = logits(model, ids)
    plain = (logits(zoo.tiny("gpt_neox").bfloat16().float(), ids) - before).abs().max()
    constraint = Constraint(scope="mlp_both", init="lift")
    lifted = constrain(model, constraint, ids)
    assert (logits(lifted, ids) - before).abs().max() < 1e-3
    assert (logits(lifted.bfloat16().float(), ids) - before).abs().max() > 1.5 * plain


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "opt"])
@pytest.mark.parametrize("scope", ["mlp_both", "mlp_in_attn_out"])
def test_in_bf16_autocast_a_lifted_model_is_as_exact_as_the_signed_one(family, scope):
    import copy

    ids, constraint = zoo.random_ids(4, 32), Constraint(scope=scope, init="lift")
    signed = zoo.tiny(family)
    with torch.no_grad():
        for value in signed.parameters():
            value.mul_(3 if value.ndim > 1 else 1)  # weights as wide as those of trained models
    exact = logits(copy.deepcopy(signed).double(), ids)
    model = constrain(copy.deepcopy(signed), constraint, ids)
    whole = logits(model, ids)

    def error(candidate):
        with torch.autocast("cpu", torch.bfloat16):
            return (logits(candidate, ids).double() - exact).square().mean().sqrt()

    guarded = copy.deepcopy(model)
    guard_precision(guarded, Constraint(scope=scope, init="abs"))
    assert error(guarded) == error(model)  # only lifted weights need it
    guard_precision(guarded, constraint)
    assert torch.equal(logits(guarded, ids), whole)  # outside autocast nothing changes
    assert error(guarded) < 1.1 * error(signed) < error(model)
    again = copy.deepcopy(guarded)  # the copy computes with its own weights
    with torch.no_grad():
        constrained(again, constraint)[0].parameter.zero_()
    assert torch.equal(logits(guarded, ids), whole) and not torch.equal(logits(again, ids), whole)


def test_a_projection_in_parts_is_the_projection_on_inputs_that_are_not_centred():
    from isotone.constraints.lift import _in_parts

    torch.manual_seed(0)
    x, weight = torch.randn(5, 8) + 1, (torch.rand(6, 8) + 3).requires_grad_()
    for reads in (True, False):
        wanted = torch.autograd.grad((x @ weight.T).square().sum(), weight)[0]
        made = _in_parts(weight, x, reads=reads)
        torch.testing.assert_close(made, x @ weight.T)
        torch.testing.assert_close(torch.autograd.grad(made.square().sum(), weight)[0], wanted, rtol=1e-4, atol=1e-2)


def test_the_lift_keeps_the_residual_stream_centred_through_the_bias():
    ids = zoo.random_ids(2, 16)
    kept, loose = (
        constrain(zoo.tiny("gpt_neox"), Constraint(scope="mlp_both", init="lift"), text) for text in (ids, None)
    )

    def mean_size(model):
        states = model.gpt_neox(ids, output_hidden_states=True).hidden_states[-2]
        return states.mean(-1).abs().mean()

    assert mean_size(kept) < 0.5 * mean_size(loose)


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_without_feed_forward_nets_a_block_is_its_attention(family):
    ids = zoo.random_ids(2, 8)
    model = constrain(zoo.tiny(family), Constraint(init="no_ffn"))
    for sublayer in family_of(model).sublayers(model):
        assert not sublayer.exit.module(torch.randn(3, sublayer.exit.weight_OI.shape[1])).any()
    assert not torch.allclose(logits(model, ids), logits(zoo.tiny(family), ids))


def test_ablation_starts():
    frozen = constrain(zoo.tiny("gpt_neox"), Constraint(scope="mlp_both", map="sign_frozen"))
    ids = zoo.random_ids(2, 8)
    torch.testing.assert_close(logits(frozen, ids), logits(zoo.tiny("gpt_neox"), ids), rtol=0, atol=1e-4)
    free = constrain(zoo.tiny("gpt_neox"), Constraint(scope="mlp_both", map="free", init="abs"))
    bound = constrain(zoo.tiny("gpt_neox"), Constraint(scope="mlp_both", map="project", init="abs"))
    for name, parameter in free.named_parameters():
        assert torch.equal(parameter, bound.get_parameter(name))


def test_a_projected_start_keeps_exact_zeros_and_a_softplus_start_has_none():
    project = constrain(zoo.tiny("gpt2"), Constraint(scope="mlp_in", init="relu", map="project"))
    softplus = constrain(zoo.tiny("gpt2"), Constraint(scope="mlp_in", init="relu", map="softplus"))
    assert smallest(project, Constraint(scope="mlp_in", init="relu")) == 0
    assert smallest(softplus, Constraint(scope="mlp_in", init="relu")) > 0.99e-4


@pytest.mark.parametrize("start", ["nnls", "nnls_block"])
def test_starts_that_look_at_activations_ask_for_text(start):
    with pytest.raises(ConfigurationError, match="needs calibration text"):
        constrain(zoo.tiny("gpt_neox"), Constraint(scope="mlp_both", init=start))


def test_a_start_is_deterministic():
    ids = zoo.random_ids(2, 16)
    one, two = (constrain(zoo.tiny("gpt2"), Constraint(scope="mlp_both", init="lift"), ids) for _ in range(2))
    assert all(torch.equal(parameter, two.get_parameter(name)) for name, parameter in one.named_parameters())


@pytest.mark.parametrize("family", zoo.CENTRING)
@pytest.mark.parametrize("start", ["abs", "relu"])
def test_the_strict_cone_starts_inside_itself(family, start):
    from isotone.constraints.coordinates import coordinates_of

    constraint = Constraint(scope="mlp_both", init=start, cone="strict")
    model = constrain(zoo.tiny(family), constraint)
    for projection in constrained(model, constraint):
        coordinates = coordinates_of(projection, "strict")
        weight = projection.parameter.detach()
        assert coordinates.read(weight).min() > 0
        torch.testing.assert_close(coordinates.write(coordinates.read(weight)), weight, rtol=0, atol=1e-6)
        assert (weight < 0).any()  # elementwise it is signed


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"scope": "mlp_both", "init": "lift", "cone": "strict"}, "strict cone forbids"),
        ({"scope": "mlp_both", "init": "keep"}, "needs non-negative weights"),
        ({"scope": "mlp_both", "init": "no_ffn"}, "needs non-negative weights"),
        ({"scope": "none", "init": "abs"}, "Choose a scope"),
        ({"scope": "mlp_both", "init": "abs", "map": "sign_frozen"}, "keeps the pretrained signs"),
        ({"scope": "mlp_both", "init": "abs", "add_bias": True}, "fits no biases"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_any_model_is_loaded(settings, why):
    with pytest.raises(ConfigurationError, match=why):
        Constraint(**settings)
