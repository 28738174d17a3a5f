from __future__ import annotations

import math

import models_zoo as zoo
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from isotone.config.constraint import Constraint
from isotone.constraints.coordinates import Coordinates, into_centred, out_of_centred
from isotone.constraints.maps import ELEMENTS, WeightMap, weight_maps
from isotone.errors import ConfigurationError

NON_NEGATIVE = ["softplus", "exp", "square", "abs", "project"]
weights = st.floats(min_value=math.log(1e-8), max_value=math.log(10.0)).map(math.exp)


@pytest.mark.parametrize("name", [*NON_NEGATIVE, "sign_frozen", "free"])
@given(values=st.lists(weights, min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_round_trips_over_1e_8_to_10(name, values):
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 2e-6)):
        weight = torch.tensor(values, dtype=dtype)
        again = WeightMap(name).forward(WeightMap(name).inverse(weight))
        assert ((again - weight) / weight).abs().max() <= tolerance


def test_the_naive_inverse_of_softplus_fails_the_round_trip():
    weight = torch.tensor([1e-8, 0.02], dtype=torch.float32)
    naive = torch.log(torch.exp(weight) - 1)
    error = ((torch.nn.functional.softplus(naive) - weight) / weight).abs().nan_to_num(1.0)
    assert error.max() > 2e-6
    naive_bf16 = torch.log(torch.exp(weight.bfloat16()) - 1)
    assert not torch.isfinite(naive_bf16).all()


@pytest.mark.parametrize("name", sorted(set(ELEMENTS) - {"zero"}))
@given(latent=st.floats(min_value=-20, max_value=8))
@settings(max_examples=100, deadline=None)
def test_the_slope_is_the_derivative(name, latent):
    if name in ("abs", "project") and abs(latent) < 1e-3:
        return  # a kink
    if name == "project":
        latent = abs(latent)  # where retract leaves it
    V = torch.tensor([latent], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(ELEMENTS[name].forward(V * 1.0).sum(), V)
    torch.testing.assert_close(ELEMENTS[name].slope(V.detach()), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("side", ["", "inputs", "outputs"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", [*NON_NEGATIVE, "sign_frozen", "free"])
def test_pull_back_is_the_chain_rule_that_autograd_follows(name, side, transposed):
    generator = torch.Generator().manual_seed(0)
    coordinates = Coordinates(side, transposed)
    start = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    sign = torch.where(coordinates.read(start) < 0, -1.0, 1.0) if name == "sign_frozen" else None
    mapping = WeightMap(name, coordinates, sign)
    V = mapping.inverse(coordinates.write(coordinates.read(start).abs() + 0.1) if sign is None else start)
    V.requires_grad_()
    target = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    W = mapping.forward(V)
    assert W.shape == start.shape
    loss = ((W - target) ** 3).sum()
    (expected,) = torch.autograd.grad(loss, V)
    pulled = mapping.pull_back(V.detach(), 3 * (W.detach() - target) ** 2)
    torch.testing.assert_close(pulled, expected, rtol=1e-9, atol=1e-12)


@given(st.integers(min_value=2, max_value=40))
@settings(max_examples=30, deadline=None)
def test_centred_coordinates_are_an_isometry_of_the_vectors_that_sum_to_zero(width):
    generator = torch.Generator().manual_seed(width)
    a = torch.randn(5, width - 1, generator=generator, dtype=torch.float64)
    x = out_of_centred(a)
    assert x.sum(-1).abs().max() < 1e-12
    torch.testing.assert_close(into_centred(x), a, rtol=0, atol=1e-12)
    torch.testing.assert_close(x.norm(dim=-1), a.norm(dim=-1))
    assert into_centred(torch.ones(width, dtype=torch.float64)).abs().max() < 1e-12


@pytest.mark.parametrize("name", NON_NEGATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_signs_hold_after_every_step_and_cast(name, dtype):
    generator = torch.Generator().manual_seed(1)
    mapping = WeightMap(name)
    V = mapping.inverse(torch.rand(50, 50, generator=generator))
    for _ in range(20):
        V = mapping.retract(V - 0.5 * torch.randn(V.shape, generator=generator))
        assert (mapping.forward(V).to(dtype) >= 0).all()


def test_a_free_map_does_not_keep_signs():
    V = WeightMap("free").inverse(torch.rand(5))
    assert (WeightMap("free").forward(WeightMap("free").retract(V - 2)) < 0).all()


def test_decay_acts_on_the_weight_and_not_on_the_latent():
    weight = torch.full((4,), 0.02, dtype=torch.float64)
    mapping = WeightMap("softplus")
    V = mapping.inverse(weight)
    for _ in range(10_000):
        V = mapping.decayed(V, 1 - 1e-4)
    torch.testing.assert_close(mapping.forward(V), weight * (1 - 1e-4) ** 10_000, rtol=1e-6, atol=0)
    pulled = mapping.forward(mapping.inverse(weight) * (1 - 1e-4) ** 10_000)
    assert (pulled > 0.15).all()  # decay on V drives W towards ln 2


@pytest.mark.parametrize("name", ["abs", "square"])
def test_decay_keeps_the_branch(name):
    V = torch.tensor([-0.5, 0.5], dtype=torch.float64)
    shrunk = WeightMap(name).decayed(V, 0.9)
    assert torch.equal(shrunk.sign(), V.sign())
    torch.testing.assert_close(WeightMap(name).forward(shrunk), 0.9 * WeightMap(name).forward(V))


def test_learning_rates_are_scaled_by_the_mean_slope_and_bounded():
    V = WeightMap("softplus").inverse(torch.full((8,), 0.05))
    scaled = WeightMap("softplus", scale_learning_rate=True)
    assert WeightMap("softplus").learning_rate_scale(V) == 1
    assert scaled.learning_rate_scale(V) == pytest.approx(1 / (1 - math.exp(-0.05)), rel=1e-4)
    assert scaled.learning_rate_scale(V - 5) == 50
    assert WeightMap("project", scale_learning_rate=True).learning_rate_scale(V) == 1
    assert WeightMap("zero", scale_learning_rate=True).learning_rate_scale(V) == 1


def test_maps_cover_exactly_the_scope():
    model = zoo.tiny("gpt2")
    both = weight_maps(model, Constraint(scope="mlp_both", init="abs"))
    assert sorted(both) == [
        "transformer.h.0.mlp.c_fc.weight",
        "transformer.h.0.mlp.c_proj.weight",
        "transformer.h.1.mlp.c_fc.weight",
        "transformer.h.1.mlp.c_proj.weight",
    ]
    one = weight_maps(model, Constraint(scope="mlp_in_attn_out", layers=[1], init="abs"))
    assert sorted(one) == ["transformer.h.1.attn.c_proj.weight", "transformer.h.1.mlp.c_fc.weight"]
    assert weight_maps(model, Constraint()) == {}
    t5 = weight_maps(zoo.tiny("t5"), Constraint(scope="mlp_in_attn_out", init="abs"))
    assert sum("EncDecAttention.o" in name for name in t5) == 2 and len(t5) == 4 + 4 + 2


@pytest.mark.parametrize("family", zoo.EARLIER)
def test_a_scope_that_fits_no_weight_lists_those_that_do(family):
    gated = family in (*zoo.GATED_DECODERS, "olmo", "t5_gated")
    wrong, right = ("mlp_both", "gated_all") if gated else ("gated_all", "mlp_both")
    with pytest.raises(ConfigurationError, match=rf'"{wrong}".*({family}).*It knows:.*{right}'):
        weight_maps(zoo.tiny(family), Constraint(scope=wrong, init="abs"))
    assert weight_maps(zoo.tiny(family), Constraint(scope=right, init="abs"))


def test_a_layer_that_does_not_exist_is_an_error():
    with pytest.raises(ConfigurationError, match=r"\[7\].*layers 0 to 1"):
        weight_maps(zoo.tiny("opt"), Constraint(scope="mlp_in", layers=[0, 7], init="abs"))


def test_without_feed_forward_nets_outputs_stay_zero():
    maps = weight_maps(zoo.tiny("llama"), Constraint(init="no_ffn"))
    assert sorted(maps) == [f"model.layers.{i}.mlp.down_proj.weight" for i in range(2)]
    mapping = next(iter(maps.values()))
    V = mapping.inverse(torch.randn(3, 4))
    assert not mapping.pull_back(V, torch.randn(3, 4)).any() and not mapping.forward(V + 1).any()


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2"])
def test_sign_frozen_keeps_the_signs_of_the_start(family):
    model = zoo.tiny(family)
    name, mapping = next(iter(weight_maps(model, Constraint(scope="mlp_in", map="sign_frozen")).items()))
    weight = model.get_parameter(name).detach()
    V = mapping.inverse(weight)
    torch.testing.assert_close(mapping.forward(V), weight, rtol=2e-6, atol=1e-9)
    assert torch.equal(mapping.forward(V + torch.randn_like(V)).sign(), weight.sign())


@pytest.mark.parametrize("side", ["inputs", "outputs"])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_fused_optimizer_takes_the_step_that_the_gradient_says(side, transposed):
    """Fused AdamW goes through memory in order; a gradient with other strides than V moved other entries."""
    torch.manual_seed(0)
    one, weight, grad = WeightMap("softplus", Coordinates(side, transposed)), torch.rand(8, 16), torch.randn(8, 16)
    moved = []
    for fused in (True, False):
        latent = one.inverse(weight).contiguous().clone()
        latent.grad = one.pull_back(latent, grad)
        torch.optim.AdamW([latent], lr=1e-2, fused=fused).step()
        moved.append(latent.detach())
    assert torch.allclose(*moved, atol=1e-6)
