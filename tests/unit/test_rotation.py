from __future__ import annotations

import copy

import models_zoo as zoo
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from isotone.config.constraint import Constraint
from isotone.constraints import certify, constrain
from isotone.constraints.rotation import fold_gains, least_direction, rotate, rotation_to_ones
from isotone.constraints.scopes import constrained
from isotone.errors import ConfigurationError
from isotone.models import load_model, save_model
from transformers import AutoModelForCausalLM

IDS = zoo.random_ids(4, 24)
CENTRED = Constraint(scope="gated_all", init="lift", norm="rotate_center")


def rotatable(family, **more):
    return zoo.tiny(family, rms_norm_eps=1e-5, **more)


@given(width=st.integers(2, 30), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_the_rotation_is_orthogonal_and_hits_the_ones(width, seed):
    direction = torch.randn(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    direction /= direction.norm()
    matrix = rotation_to_ones(direction)
    eye = torch.eye(width, dtype=torch.float64)
    torch.testing.assert_close(matrix @ matrix.T, eye, rtol=0, atol=1e-12)
    ones = torch.full((width,), width**-0.5, dtype=torch.float64)
    torch.testing.assert_close(matrix @ direction, ones, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation_to_ones(ones) @ ones, ones, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", zoo.GATED_DECODERS)
@pytest.mark.parametrize("tied", [False, True])
def test_rotating_an_rms_norm_model_changes_nothing(family, tied):
    model = rotatable(family).double()
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
        model.config.tie_word_embeddings = True
    before = model(IDS).logits
    fold_gains(model)
    torch.testing.assert_close(model(IDS).logits, before, rtol=0, atol=2e-6)  # RMSNorm itself rounds to fp32
    direction = torch.randn(zoo.WIDTH, dtype=torch.float64)
    rotate(model, rotation_to_ones(direction / direction.norm()))
    torch.testing.assert_close(model(IDS).logits, before, rtol=0, atol=2e-6)  # RMSNorm itself rounds to fp32


def test_rotating_a_layer_norm_model_would_change_logits():
    """The control: LayerNorm does not commute with rotations, so the algebra above is RMSNorm's."""
    x = torch.randn(6, zoo.WIDTH, dtype=torch.float64)
    direction = torch.randn(zoo.WIDTH, dtype=torch.float64)
    matrix = rotation_to_ones(direction / direction.norm())
    norm = torch.nn.functional.layer_norm
    assert (norm(x @ matrix.T, (zoo.WIDTH,)) - norm(x, (zoo.WIDTH,)) @ matrix.T).abs().max() > 1e-3


def empty_direction(family):
    """A model whose residual stream never leaves 31 of its 32 dimensions, in no axis-parallel way."""
    model = rotatable(family)
    generator = torch.Generator().manual_seed(9)
    direction = torch.randn(zoo.WIDTH, generator=generator)
    direction /= direction.norm()
    with torch.no_grad():
        for norm in [module for name, module in model.named_modules() if "norm" in name]:
            norm.weight.fill_(1.0)
        model.model.embed_tokens.weight -= torch.outer(model.model.embed_tokens.weight @ direction, direction)
        for block in model.model.layers:
            for projection in (block.self_attn.o_proj, block.mlp.down_proj):
                projection.weight -= torch.outer(direction, direction @ projection.weight)
    return model, direction


def test_the_least_direction_is_found():
    model, direction = empty_direction("llama")
    found = least_direction(model, IDS)
    assert abs(float(found @ direction.double())) > 1 - 1e-6


@pytest.mark.parametrize("family", zoo.GATED_DECODERS)
def test_centring_costs_nothing_where_a_direction_is_empty(family, tmp_path):
    model, _ = empty_direction(family)
    before = model(IDS).logits
    olmo = constrain(copy.deepcopy(model), CENTRED, IDS)
    assert olmo.config.model_type == "olmo" and not olmo.config.tie_word_embeddings
    assert (olmo(IDS).logits - before).abs().max() < 2e-3  # fp32: LayerNorm and lifted sums round
    assert min(float(p.weight_OI.min()) for p in constrained(olmo, CENTRED)) > 0
    found = certify(olmo, CENTRED, IDS)
    assert found["verdict"] == "conditional" and found["vacuous"]
    save_model(olmo, zoo.tiny_tokenizer(), tmp_path / "m")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "m")(IDS).logits, olmo(IDS).logits)
    assert torch.equal(load_model(tmp_path / "m")(IDS).logits, olmo(IDS).logits)


def test_centring_a_full_direction_does_cost():
    model = rotatable("llama")
    olmo = constrain(copy.deepcopy(model), CENTRED, IDS)
    assert (olmo(IDS).logits - model(IDS).logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("family", "more", "why"),
    [
        ("llama", {"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-06"),
        ("llama", {"rms_norm_eps": 1e-5, "mlp_bias": True}, "biases"),
        ("mistral", {"rms_norm_eps": 1e-5, "sliding_window": 16}, "sliding window of 16"),
        ("gpt2", {}, "gpt2 is not such a model"),
        ("olmo", {}, "olmo is not such a model"),
    ],
)
def test_models_that_do_not_fit_olmo_are_refused(family, more, why):
    constraint = CENTRED if family != "gpt2" else Constraint(scope="mlp_both", init="lift", norm="rotate_center")
    with pytest.raises(ConfigurationError, match=why):
        constrain(zoo.tiny(family, **more), constraint, IDS)


def test_rotation_needs_text():
    with pytest.raises(ConfigurationError, match="calibration text"):
        constrain(rotatable("llama"), CENTRED)
