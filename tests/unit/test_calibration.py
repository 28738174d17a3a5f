from __future__ import annotations

import copy

import models_zoo as zoo
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from isotone.config.constraint import BlockReconstruction, Calibration, Constraint
from isotone.constraints import certify, constrain, weight_maps
from isotone.constraints.capture import capture
from isotone.constraints.nnls import optimality_gap, problem, solve
from isotone.constraints.scopes import constrained
from isotone.errors import ConfigurationError
from isotone.models import family_of, load_model, save_model
from scipy.optimize import nnls as scipy_nnls

IDS = zoo.random_ids(8, 32)


def regression(seed, tokens=60, inputs=7, outputs=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, inputs, generator=generator, dtype=torch.float64) + 0.5
    y = x @ torch.randn(inputs, outputs, generator=generator, dtype=torch.float64)
    return x, y + 0.1 * torch.randn(tokens, outputs, generator=generator, dtype=torch.float64)


@given(seed=st.integers(0, 2**20), ridge=st.sampled_from([0.0, 1e-4, 1e-2]), bias=st.booleans())
@settings(max_examples=40, deadline=None)
def test_nnls_satisfies_karush_kuhn_tucker(seed, ridge, bias):
    x, y = regression(seed)
    task = problem(x, y, ridge=ridge, free_bias=bias)
    weight = solve(task, torch.zeros(4, 7), 5000)
    gradient = weight @ task.gram_II - task.cross_OI
    scale = float(task.cross_OI.abs().max())
    assert (weight >= 0).all()
    assert (gradient > -1e-4 * scale).all()  # no coordinate wants to rise
    assert ((gradient.abs() < 1e-4 * scale) | (weight == 0)).all()  # positive ones are stationary
    assert optimality_gap(weight, task.gram_II, task.cross_OI) < 1e-4
    assert optimality_gap(weight + 0.1, task.gram_II, task.cross_OI) > 1e-3  # control


@given(seed=st.integers(0, 2**20))
@settings(max_examples=15, deadline=None)
def test_nnls_agrees_with_scipy(seed):
    x, y = regression(seed)
    weight = solve(problem(x, y, ridge=0.0, free_bias=False), torch.zeros(4, 7), 5000)
    for row, target in zip(weight, y.T, strict=True):
        expected, _ = scipy_nnls(x.numpy(), target.numpy())
        torch.testing.assert_close(row, torch.from_numpy(expected), rtol=1e-3, atol=1e-4)


@given(seed=st.integers(0, 2**20), iterations=st.sampled_from([1, 3, 50]))
@settings(max_examples=30, deadline=None)
def test_nnls_is_never_worse_than_relu_however_few_iterations(seed, iterations):
    x, y = regression(seed)
    signed = torch.linalg.lstsq(x, y).solution.T
    task = problem(x, y, ridge=0.0, free_bias=True)
    residual = task.objective(solve(task, signed, iterations))
    assert residual <= task.objective(signed.clamp_min(0)) * (1 + 1e-12)
    direct = (y - (x @ signed.clamp_min(0).T)).var(0, correction=0).sum()
    assert task.objective(signed.clamp_min(0)) == pytest.approx(float(direct), rel=1e-9)


def test_nnls_gives_back_a_start_that_it_cannot_better():
    for seed in range(10):
        x, y = regression(seed)
        task = problem(x, y, ridge=0.0, free_bias=False)
        best = torch.tensor(np.stack([scipy_nnls(x.numpy(), target.numpy())[0] for target in y.T]))
        assert task.objective(solve(task, best, 7)) <= task.objective(best)  # fp32 alone would lose a little


def test_capture_returns_what_a_whole_forward_pass_would_show():
    model = zoo.tiny("gpt_neox")
    name = family_of(model).sublayers(model)[1].exit.name
    kept = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, i, o: kept.append((i[0], o)))
    with torch.no_grad():
        model(IDS)
    handle.remove()
    seen = capture(model, IDS, [name])[name]
    torch.testing.assert_close(seen.inputs_NI, kept[0][0].flatten(0, 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.outputs_NO, kept[0][1].flatten(0, 1), rtol=0, atol=1e-5)
    assert capture(model, IDS, [name], outputs=False)[name].outputs_NO.numel() == 0
    assert not model.get_submodule(name)._forward_hooks


@pytest.mark.parametrize("name", ["softplus", "exp", "square"])
@pytest.mark.parametrize("cone", ["elementwise", "strict"])
def test_fitted_zeros_are_lifted_to_where_a_step_can_move_them(name, cone):
    constraint = Constraint(scope="mlp_both", init="nnls", map=name, cone=cone)
    model = constrain(zoo.tiny("gpt2"), constraint, IDS)
    projected = Constraint(scope="mlp_both", init="nnls", map="project", cone=cone)
    exact = constrain(zoo.tiny("gpt2"), projected, IDS)
    for parameter, mapping in weight_maps(model, constraint).items():
        read = mapping.coordinates.read
        assert read(model.get_parameter(parameter).detach()).min() > 0.9e-4
        assert read(exact.get_parameter(parameter).detach()).min() < 1e-6  # there were zeros to lift


def output_error(model, teacher, ids):
    with torch.no_grad():
        return float((model(ids).logits - teacher(ids).logits).square().mean())


FITTED = [
    ("gpt_neox", "mlp_both", "elementwise"),
    ("gpt2", "mlp_both", "elementwise"),
    ("opt", "mlp_in_attn_out", "elementwise"),
    ("gpt2", "mlp_both", "strict"),
    ("opt", "mlp_both", "strict"),
    ("llama", "gated_updown", "elementwise"),
    ("qwen2", "gated_all", "elementwise"),
]


@pytest.mark.parametrize(("family", "scope", "cone"), FITTED)
def test_calibrated_starts_stay_in_the_cone_and_beat_abs(family, scope, cone):
    def start(name, **more):
        constraint = Constraint(scope=scope, cone=cone, init=name, map="project", **more)
        model = constrain(zoo.tiny(family), constraint, IDS)
        assert all(layer["negatives"] == 0 for layer in certify(model, constraint, IDS)["layers"])
        return output_error(model, zoo.tiny(family), IDS)

    fitted = start("nnls")
    assert fitted < start("abs") and fitted < start("relu")


@pytest.mark.parametrize(("family", "scope"), [("gpt_neox", "mlp_both"), ("llama", "gated_updown")])
def test_block_reconstruction_improves_the_block_and_is_deterministic(family, scope):
    few = BlockReconstruction(steps=60, learning_rate=3e-3)

    def made(start):
        constraint = Constraint(scope=scope, init=start, map="project", layers=[0], block_reconstruction=few)
        return constrain(zoo.tiny(family), constraint, IDS), constraint

    def block_error(model):
        name = family_of(model).sublayers(model)[0].exit.name
        ours, theirs = (capture(each, IDS, [name])[name].outputs_NO for each in (model, zoo.tiny(family)))
        return float((ours - theirs).square().mean())

    (plain, _), (fitted, constraint), (again, _) = made("nnls"), made("nnls_block"), made("nnls_block")
    assert block_error(fitted) < 0.9 * block_error(plain)
    assert min(float(p.weight_OI.min()) for p in constrained(fitted, constraint)) >= 0
    assert all(torch.equal(value, again.get_parameter(name)) for name, value in fitted.named_parameters())


def test_biases_are_added_where_plain_transformers_can_load_them(tmp_path):
    constraint = Constraint(scope="gated_updown", init="nnls", map="project", add_bias=True)
    model = constrain(zoo.tiny("llama"), constraint, IDS)
    assert model.config.mlp_bias and model.model.layers[0].mlp.down_proj.bias.abs().max() > 0
    save_model(model, None, tmp_path / "m")
    assert output_error(load_model(tmp_path / "m"), model, IDS) == 0
    bare = constrain(zoo.tiny("llama"), Constraint(scope="gated_updown", init="nnls", map="project"), IDS)
    assert output_error(model, zoo.tiny("llama"), IDS) < output_error(bare, zoo.tiny("llama"), IDS)
    with pytest.raises(ConfigurationError, match=r"add_bias.*qwen2.*could load"):
        constrain(zoo.tiny("qwen2"), Constraint(scope="gated_updown", init="nnls", add_bias=True), IDS)


def test_student_inputs_matter():
    """Sequential calibration sees what earlier layers broke; layers fitted alone do worse together."""
    together = Constraint(scope="mlp_both", init="nnls", map="project", calibration=Calibration(iterations=300))
    teacher = zoo.tiny("opt")
    sequential = constrain(copy.deepcopy(teacher), together, IDS)
    alone = copy.deepcopy(teacher)
    for layer in (0, 1):
        single = Constraint(scope="mlp_both", init="nnls", map="project", layers=[layer])
        fitted = constrain(copy.deepcopy(teacher), single, IDS)
        for projection, source in zip(constrained(alone, single), constrained(fitted, single), strict=True):
            projection.module.load_state_dict(source.module.state_dict())
    assert output_error(sequential, teacher, IDS) < output_error(alone, teacher, IDS)
