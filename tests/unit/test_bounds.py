"""Interval bounds and the radii that they certify."""

from __future__ import annotations

import models_zoo as zoo
import pytest
import torch
from isotone.config.constraint import Constraint
from isotone.constraints import certify, constrain
from isotone.constraints.bounds import SHARE, certified_radius, output_interval
from isotone.constraints.capture import capture
from isotone.constraints.paths import path_of
from isotone.models import family_of

IDS = zoo.random_ids(4, 24)
STRICT = Constraint(scope="mlp_both", init="abs", cone="strict", activation="relu")


def net(family, constraint=None, **more):
    model = zoo.tiny(family, **more)
    if constraint:
        constrain(model, constraint, IDS)
    sublayer = family_of(model).sublayers(model)[0]
    name = family_of(model).activation_of(model.config)
    seen = capture(model, IDS, [sublayer.entrances[0].name], outputs=False)
    return model, sublayer, name, seen[sublayer.entrances[0].name].inputs_NI


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "starcoder2", "nemotron", "llama", "phi3", "gemma2"])
@pytest.mark.parametrize("radius", [0.01, 0.3, 3.0])
def test_no_input_in_the_box_leaves_the_interval(family, radius):
    model, sublayer, name, x = net(family)
    path = path_of(model, sublayer, name, "elementwise")
    middle = x[:3].double()
    low, high = output_interval(path, middle, torch.full((3, 1), radius, dtype=torch.float64))
    corners = middle + radius * torch.randint(0, 2, (400, 3, zoo.WIDTH)).mul(2).sub(1)
    inside = middle + radius * (2 * torch.rand(400, 3, zoo.WIDTH, dtype=torch.float64) - 1)
    for points in (corners, inside):
        for values in (path(each) for each in points):
            assert bool((values >= low - 1e-9).all()) and bool((values <= high + 1e-9).all())


@pytest.mark.parametrize("family", ["gpt_neox", "nemotron", "phi"])
def test_the_bound_of_a_certified_net_is_attained(family):
    model, sublayer, name, x = net(family, STRICT)
    path = path_of(model, sublayer, name, "strict")
    middle, radius = path.into(x[:5].double()), torch.full((5, 1), 0.2, dtype=torch.float64)
    low, high = output_interval(path, middle, radius)
    torch.testing.assert_close(low, path(middle - radius), rtol=0, atol=1e-9)
    torch.testing.assert_close(high, path(middle + radius), rtol=0, atol=1e-9)
    found = certified_radius(model, sublayer, name, x, centred=True, behind_gain=True)
    assert found["exact"] and 0 < found["least"] <= found["radius"]
    # at the radius some output just reaches what is allowed
    inputs = path.into(x.double())
    rows = inputs[torch.linspace(0, len(inputs) - 1, 16).long()]
    reach = torch.full((16, 1), found["least"] * float(inputs.std()), dtype=torch.float64)
    moved = torch.maximum(path(rows + reach) - path(rows), path(rows) - path(rows - reach)).amax()
    assert float(moved) == pytest.approx(SHARE * float(path(inputs).std(0).mean()), rel=1e-4)


def test_the_bound_of_a_signed_net_is_no_promise_of_tightness():
    model, sublayer, name, x = net("gpt_neox", hidden_act="relu")
    found = certified_radius(model, sublayer, name, x, centred=True)
    assert not found["exact"] and found["radius"] > 0
    # what random corners reach at the certified radius stays well inside: the bound is loose
    path = path_of(model, sublayer, name, "elementwise")
    rows, allowed = x[:8].double(), SHARE * float(path(x.double()).std(0).mean())
    reach = found["radius"] * float(x.double().std())
    moves = [
        (path(rows + reach * (2 * torch.randint(0, 2, rows.shape) - 1)) - path(rows)).abs().max() for _ in range(50)
    ]
    assert float(torch.stack(moves).max()) < 0.8 * allowed


def test_the_radius_does_not_see_how_a_gain_is_split():
    """Folding gains moves no function, so that a baseline and its lifted twin have one radius."""
    plain, lifted = net("gpt_neox"), net("gpt_neox", Constraint(scope="mlp_both", init="lift"))
    one, two = (
        certified_radius(model, sublayer, name, x, centred=True) for model, sublayer, name, x in (plain, lifted)
    )
    assert one["radius"] == pytest.approx(two["radius"], rel=1e-3)


def test_the_certificate_carries_the_radius_and_an_unknown_activation_has_none():
    model = constrain(zoo.tiny("gpt_neox"), STRICT, IDS)
    layer = certify(model, STRICT, IDS)["layers"][0]
    assert layer["bound"]["exact"] and layer["bound"]["space"] == "centred coordinates"
    mish = certify(zoo.tiny("gpt_neox", hidden_act="mish"), Constraint(), IDS)["layers"][0]["bound"]
    assert mish["radius"] is None and not mish["exact"]
