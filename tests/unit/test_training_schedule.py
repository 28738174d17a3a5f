"""Steps, epoch ends and learning rates as pure functions."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from isotone.config.training import Faults, Training
from isotone.training.schedule import Schedule


def schedule(blocks: int = 100, **settings: object) -> Schedule:
    return Schedule(Training(**({"global_batch": 8, "micro_batch_size": 8, "epochs": 3.0} | settings)), blocks)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("blocks", "epochs", "batch", "steps", "ends"),
    [
        (100, 3.0, 8, 38, [13, 25, 38]),
        (96, 3.0, 8, 36, [12, 24, 36]),
        (100, 0.5, 8, 7, [7]),
        (100, 1.5, 8, 19, [13, 19]),
        (3, 5.0, 8, 2, [1, 2]),  # several epochs in one step
        (100, 0.001, 8, 1, [1]),
    ],
)
def test_epochs_end_at_the_first_step_with_enough_samples(
    blocks: int, epochs: float, batch: int, steps: int, ends: list[int]
) -> None:
    made = schedule(blocks, epochs=epochs, global_batch=batch)
    assert made.steps == steps
    assert [step for step in range(steps + 5) if made.is_epoch_end(step)] == ends
    assert made.epochs_done(steps) == made.epochs == math.ceil(epochs)


def test_a_step_limit_ends_a_run_early() -> None:
    made = schedule(max_steps=20)
    assert made.steps == 20
    assert made.epochs == 2
    assert [step for step in range(30) if made.is_epoch_end(step)] == [13, 20]
    assert schedule(max_steps=1000).steps == 38


def test_anchors_and_milestones_depend_on_the_settings_alone() -> None:
    made = schedule(faults=Faults(roll_back_every=10), milestones=[0.1, 0.5, 1.0])
    assert [step for step in range(39) if made.is_anchor(step)] == [10, 20, 30]
    assert made.milestones == {0.1: 4, 0.5: 19, 1.0: 38}
    assert schedule(milestones=[0.0]).milestones == {0.0: 1}


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_learning_rates_rise_then_fall(kind: str) -> None:
    made = schedule(800, epochs=1.0, schedule=kind, warm_up=0.1, learning_rate=2.0)
    rates = [made.learning_rate(step) for step in range(made.steps)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert max(rates) == rates[10] == 2.0
    middle = {"linear": 2.0 * (1 - 45 / 90), "cosine": 2.0 * 0.5 * (1 + math.cos(math.pi * 0.5)), "constant": 2.0}[kind]
    assert rates[55] == pytest.approx(middle)
    assert rates[-1] > 0
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert schedule(8, epochs=1.0, warm_up=1.0).learning_rate(0) == pytest.approx(1e-3)
