"""Steps of training on the emulated device: every map, cone and way of computing; losses, syncs, kernels."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from isotone.config.constraint import Constraint
from isotone.config.training import Distillation, Training
from isotone.constraints import constrain, guard_precision, weight_maps
from isotone.data.batch import Batch

from tests.emulated.scene import in_fork
from tests.unit import models_zoo as zoo

LEAVES, ROWS, LENGTH = 4, 2, 16
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "unconstrained": ("gpt_neox", {}, {}),
    **{
        name: ("gpt_neox", {"scope": "mlp_both", "map": name, "init": "abs"}, {})
        for name in ("softplus", "exp", "square", "abs", "project")
    },
    "sign_frozen": ("gpt_neox", {"scope": "mlp_both", "map": "sign_frozen"}, {}),
    "free": ("gpt_neox", {"scope": "mlp_both", "map": "free", "init": "abs"}, {}),
    "strict cone": ("gpt_neox", {"scope": "mlp_both", "init": "abs", "cone": "strict"}, {}),
    "no_ffn": ("gpt_neox", {"init": "no_ffn"}, {}),
    "lift": ("gpt_neox", {"scope": "mlp_both", "init": "lift"}, {}),
    "gated": ("llama", {"scope": "gated_all", "init": "relu"}, {}),
    "stored as [in, out]": ("gpt2", {"scope": "mlp_both", "init": "abs", "cone": "strict"}, {}),
    "decay on W, clipped": (
        "gpt_neox",
        {"scope": "mlp_both", "init": "abs", "weight_decay_on": "weight", "learning_rate_scale": "auto"},
        {"max_grad_norm": 0.01},
    ),
    "checkpointing": ("gpt_neox", {}, {"gradient_checkpointing": True}),
    "teacher": ("gpt_neox", {}, {"distillation": Distillation(alpha=0.5, temperature=2.0)}),
    "opt": ("opt", {"scope": "mlp_both", "init": "abs"}, {}),
}


def step(model: Any, constraint: Constraint, training: Training, device: torch.device, move: Any) -> Any:
    """Two steps as the loop takes them; ``(losses, norms, weights, kernels, syncs)``, counts of the second step."""
    from isotone.training.engine import Engine
    from isotone.training.optimizer import Optimizer
    from isotone.training.world import TreeSum

    tally = None
    if device.type != "cpu":
        from tests.emulated.device import TALLY as tally
    teacher = move(copy.deepcopy(model)).requires_grad_(False) if training.distillation.alpha else None
    if constraint.scope != "none" or constraint.init == "no_ffn":
        model = constrain(model, constraint, zoo.random_ids(2, LENGTH))
    model = move(model)
    guard_precision(model, constraint)
    optimizer = Optimizer(
        model, weight_maps(model, constraint), training, decay_weight=constraint.weight_decay_on == "weight"
    )
    engine = Engine(model, training, device, teacher)
    generator = torch.Generator().manual_seed(5)
    found = []
    for number in range(2):
        batch = torch.randint(0, 40, (LEAVES, ROWS, LENGTH + 1), generator=generator).to(device)
        if tally:
            tally.reset()
        tree, losses = TreeSum(), []
        for leaf in range(LEAVES):
            losses.append(
                engine.train(Batch(batch[leaf, :, :-1], batch[leaf, :, 1:]), seed=1, step=number, micro_batch=leaf)
            )
            tree.add(optimizer.flat)
            optimizer.flat.zero_()
        total = torch.stack(losses).double().cpu()
        tree.take(optimizer.flat)
        norms = optimizer.finish_gradients(1 / (LEAVES * ROWS * LENGTH * engine.loss_scale))
        optimizer.update(1e-4, norms)
        found.append((total.tolist(), norms))
    counts = (sum(tally.kernels.values()), dict(tally.syncs)) if tally else (0, {})
    return found, {name: value.detach() for name, value in model.named_parameters()}, counts


def compare(case: str) -> tuple[int, dict[str, int]]:
    """Kernels and syncs of a step on the emulated device, after a check of its results against the CPU."""
    from isotone.devices import choose_kernels

    from tests.emulated import device as emulated

    family, constraint, training = CASES[case]
    settings = Constraint(**constraint)
    steps = Training(global_batch=LEAVES * ROWS, micro_batch_size=ROWS, length=LENGTH, **training)
    choose_kernels(True)
    model = zoo.tiny(family)
    expected, weights, _ = step(copy.deepcopy(model), settings, steps, torch.device("cpu"), lambda one: one)
    with emulated.Emulation():
        found, made, counts = step(model, settings, steps, emulated.DEVICE, emulated.move)
    # not the same bits: attention takes another path, and the loss is summed in fp32
    for (losses, norms), (their_losses, their_norms) in zip(found, expected, strict=True):
        assert losses == pytest.approx(their_losses, rel=1e-4)
        assert norms == pytest.approx(their_norms, rel=2e-3)
    for name, value in made.items():
        assert isinstance(value, emulated.Emulated), name
        assert (value.inner - weights[name]).abs().mean() < 1e-3, name
    return counts


@pytest.mark.parametrize("case", CASES)
def test_a_step_agrees_with_the_cpu_and_waits_for_the_device_twice(case: str) -> None:
    kernels, syncs = in_fork(lambda: compare(case))
    assert sum(syncs.values()) <= 2, syncs  # the losses, the norms
    layers = 2
    assert kernels <= LEAVES * (130 + 200 * layers) + 400, kernels


def test_a_step_that_reads_a_value_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from isotone.training.engine import Engine

    plain = Engine.train

    def slow(self: Any, *args: Any, **options: Any) -> Any:
        loss = plain(self, *args, **options)
        loss.item()
        return loss

    monkeypatch.setattr(Engine, "train", slow)
    _, syncs = in_fork(lambda: compare("unconstrained"))
    assert sum(syncs.values()) == 2 + LEAVES


def test_a_tensor_left_on_the_cpu_is_noticed() -> None:
    def mix() -> str:
        from tests.emulated import device as emulated

        with emulated.Emulation():
            here = torch.ones(3, device=emulated.DEVICE)
            assert (here * torch.tensor(2.0)).cpu().tolist() == [2.0] * 3  # scalars may come from the CPU
            for work in (lambda: here + torch.ones(3), lambda: torch.cat([here, torch.ones(3)])):
                try:
                    work()
                except RuntimeError as error:
                    assert "same device" in str(error)
                else:
                    return "mixed"
            try:
                here.cumsum(0)
            except RuntimeError as error:
                return str(error)
        return "computed"

    assert "no deterministic form" in in_fork(mix)
