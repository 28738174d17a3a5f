"""The optimizer that carries the constraint, against torch's parametrize and plain loops."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as functional
from isotone.config.constraint import Constraint
from isotone.config.training import Training
from isotone.constraints import weight_maps
from isotone.constraints.maps import WeightMap
from isotone.training.optimizer import Optimizer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tests.unit.models_zoo import tiny

STEPS = 20


class Toy(nn.Module):
    """Two matrices and a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 3)
        with torch.no_grad():
            self.first.weight.abs_()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class Map(nn.Module):
    """A map as a parametrization of torch: the oracle."""

    def __init__(self, rule: WeightMap) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, latent: Tensor) -> Tensor:
        return self.rule.forward(latent)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return self.rule.inverse(weight)


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(16, 6, generator=generator), torch.randn(16, 3, generator=generator)) for _ in range(STEPS)]


def ours(
    model: nn.Module, maps: dict[str, WeightMap], training: Training, *, rates: list[float], decay: bool = False
) -> Optimizer:
    optimizer = Optimizer(model, maps, training, decay_weight=decay)
    for (x, y), rate in zip(batches(), rates, strict=True):
        optimizer.flat.zero_()
        functional.mse_loss(model(x), y).backward()
        optimizer.update(rate, optimizer.finish_gradients(1.0))
    return optimizer


@pytest.mark.parametrize("name", ["softplus", "exp", "square", "abs"])
def test_it_equals_parametrize_and_torchs_adamw(name: str) -> None:
    model, oracle = Toy(), Toy()
    rule = WeightMap(name)
    rates = [0.01 * (1 - step / 40) for step in range(STEPS)]
    training = Training(learning_rate=0.01, weight_decay=0.1, max_grad_norm=0.0)
    ours(model, {"first.weight": rule}, training, rates=rates)
    parametrize.register_parametrization(oracle.first, "weight", Map(rule))
    adamw = torch.optim.AdamW(
        [
            {"params": [oracle.first.parametrizations.weight.original], "weight_decay": 0.0},
            {"params": [oracle.second.weight], "weight_decay": 0.1},
            {"params": [oracle.first.bias, oracle.second.bias], "weight_decay": 0.0},
        ],
        fused=True,
    )
    for (x, y), rate in zip(batches(), rates, strict=True):
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.zero_grad()
        functional.mse_loss(oracle(x), y).backward()
        adamw.step()
    for one, other in ((model.first, oracle.first), (model.second, oracle.second)):
        assert torch.allclose(one.weight, other.weight, atol=2e-6)
        assert torch.allclose(one.bias, other.bias, atol=2e-6)
    assert not torch.equal(model.first.weight, Toy().first.weight)


def test_project_stays_in_the_cone() -> None:
    model = Toy()
    ours(model, {"first.weight": WeightMap("project")}, Training(max_grad_norm=0.0), rates=[0.1] * STEPS)
    assert float(model.first.weight.min()) == 0.0


@pytest.mark.parametrize("decay", [True, False])
def test_weight_decay_follows_the_analytic_curve(decay: bool) -> None:
    """Without a gradient W shrinks by the product of 1 - rate x decay; V alone never moves."""
    model = Toy()
    before = copy.deepcopy(model)
    training = Training(weight_decay=0.5, max_grad_norm=0.0)
    optimizer = Optimizer(model, {"first.weight": WeightMap("softplus")}, training, decay_weight=decay)
    factor = 1.0
    for step in range(STEPS):
        rate = 0.05 * (1 - step / STEPS)
        optimizer.flat.zero_()
        optimizer.update(rate, optimizer.finish_gradients(1.0))
        factor *= 1 - rate * 0.5
    assert torch.allclose(model.second.weight, before.second.weight * factor, rtol=1e-5)
    assert torch.allclose(model.first.weight, before.first.weight * (factor if decay else 1.0), rtol=1e-5, atol=1e-7)
    assert torch.equal(model.first.bias, before.first.bias)


def test_each_group_is_clipped_by_its_own_norm() -> None:
    model = Toy()
    optimizer = Optimizer(
        model, {"first.weight": WeightMap("softplus")}, Training(max_grad_norm=0.01), decay_weight=False
    )
    optimizer.flat.fill_(1.0)
    norms = optimizer.finish_gradients(0.5)
    assert norms["matrices"] == pytest.approx(0.5 * 36**0.5)
    assert norms["vectors"] == pytest.approx(0.5 * 15**0.5)
    slope = torch.sigmoid(optimizer.latents["first.weight"])
    assert norms["constrained"] == pytest.approx(float((0.5 * slope).norm()), rel=1e-5)
    seen = {}
    optimizer._adamw.step = lambda: seen.update(  # look at the gradients that AdamW gets
        {
            group: torch.stack([optimizer.values()[name].grad.norm() for name in names]).norm()
            for group, names in optimizer.groups.items()
        }
    )
    optimizer.update(0.1, norms)
    assert {group: pytest.approx(0.01, rel=1e-5) for group in seen} == {
        group: float(value) for group, value in seen.items()
    }


def test_learning_rate_scales_are_fixed_at_the_start_and_travel_with_the_state() -> None:
    rule = WeightMap("softplus", scale_learning_rate=True)
    model = Toy()
    optimizer = ours(model, {"first.weight": rule}, Training(max_grad_norm=0.0), rates=[0.01] * STEPS)
    scale = optimizer.scales["first.weight"]
    assert scale > 1.5
    copied = Toy()
    other = Optimizer(copied, {"first.weight": rule}, Training(max_grad_norm=0.0), decay_weight=False)
    state = {kind: {name: value.clone() for name, value in group.items()} for kind, group in optimizer.state().items()}
    other.load(state, updates=optimizer.updates, scales={"first.weight": 7.0})
    assert other._adamw.param_groups[0]["scale"] == 7.0
    other.load(state, updates=optimizer.updates, scales=optimizer.scales)
    for made in (optimizer, other):
        made.flat.fill_(0.1)
        made.update(0.01, made.finish_gradients(1.0))
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), copied.parameters(), strict=True))


def test_restart_is_the_start() -> None:
    model = Toy()
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = ours(model, {"first.weight": WeightMap("softplus")}, Training(), rates=[0.05] * STEPS)
    optimizer.restart(start)
    fresh = Optimizer(Toy(), {"first.weight": WeightMap("softplus")}, Training(), decay_weight=False)
    for kind, group in optimizer.state().items():
        for name, value in group.items():
            assert torch.equal(value, fresh.state()[kind][name])
    assert optimizer.updates == 0


def test_a_state_that_does_not_fit_is_an_error() -> None:
    optimizer = Optimizer(Toy(), {}, Training(), decay_weight=False)
    with pytest.raises(KeyError):
        optimizer.load({"weights": {}, "exp_avg": {}, "exp_avg_sq": {}}, updates=0, scales={})


def test_a_strict_cone_has_a_latent_of_another_shape() -> None:
    model = tiny("gpt_neox")
    constraint = Constraint(scope="mlp_in", cone="strict", init="abs")
    maps = weight_maps(model, constraint)
    optimizer = Optimizer(model, maps, Training(), decay_weight=False)
    name = next(iter(maps))
    assert optimizer.latents[name].shape != optimizer.parameters[name].shape
    optimizer.flat.normal_()
    before = optimizer.parameters[name].clone()
    optimizer.update(0.01, optimizer.finish_gradients(1.0))
    assert not torch.equal(before, optimizer.parameters[name])
    assert float(optimizer.parameters[name].sum(1).abs().max()) < 1e-4  # the strict cone lies in the centred space


def test_no_trainable_parameter_gives_no_norm() -> None:
    model = nn.Linear(2, 2)
    optimizer = Optimizer(model, {}, Training(), decay_weight=False)
    assert set(optimizer.finish_gradients(1.0)) == {"matrices", "vectors"}
