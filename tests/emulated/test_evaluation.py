"""Scoring, attacks, controls and certificates on the emulated device: the CPU's numbers, and no tensor left behind."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from isotone.attacks.registry import SPECS

from tests.emulated.scene import in_fork
from tests.unit import models_zoo as zoo

sys.path.insert(0, str(Path(zoo.__file__).parent))  # as pytest does for the tests beside it
DECODERS = [name for name in zoo.FAMILIES if name not in zoo.PAIRED]


def fresh() -> None:
    """Have the evaluation's modules imported anew, behind the change of torch that `device` makes."""
    import tests.emulated.device  # noqa: F401

    for name in list(sys.modules):
        if name.startswith(("isotone.evaluation", "isotone.attacks", "attack_zoo")):
            del sys.modules[name]


def both(family: str, work: Any) -> tuple[Any, Any, int]:
    """``work(model, move)`` on the CPU and on the emulated device, and how often the latter was waited for."""
    from isotone.devices import choose_kernels
    from isotone.models.forward import choose_experts

    from tests.emulated import device as emulated

    choose_kernels(True)
    model = zoo.tiny(family)
    expected = work(copy.deepcopy(model), lambda value: value)
    with emulated.Emulation():

        def move(value: Any) -> Any:
            if isinstance(value, torch.nn.Module):
                return choose_experts(emulated.move(value))
            return value.to(emulated.DEVICE)

        emulated.TALLY.reset()
        found = work(move(model), move)
        return expected, found, sum(emulated.TALLY.syncs.values())


def scored(family: str) -> int:
    """Syncs of scoring 3 windows, 3 texts, 3 flips, 2 slopes and a comparison."""
    fresh()
    from isotone.attacks.objective import TextObjective
    from isotone.evaluation.scoring import Scorer, Window

    ids = zoo.random_ids(3, 24).numpy()
    windows = [Window(row[: 20 - index], row[1 : 21 - index]) for index, row in enumerate(ids)]
    rows, places, tokens = np.array([0, 1, 2]), np.array([3, 18, 22]), np.array([4, 5, 6])

    def work(model: Any, move: Any) -> list[Any]:
        objective = TextObjective(Scorer(model, 0))
        known = objective.scores(ids)
        nll, slopes = objective.slopes(ids[:2], np.ones((2, 24)))
        compared = objective.scorer.compare(torch.from_numpy(ids[0]), torch.from_numpy(ids[1]))
        flipped = objective.flips(ids, known, rows, places, tokens)
        kl = next(value for value in vars(compared).values() if value.is_floating_point())
        return [known, nll, slopes.numpy(), flipped, objective.scorer.windows(windows), kl.numpy()]

    expected, found, syncs = both(family, work)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-4)
    return syncs


@pytest.mark.parametrize("family", DECODERS)
def test_every_family_is_scored_with_few_syncs(family: str) -> None:
    experts = family in ("mixtral", "qwen3_moe")  # one after the other, which asks the device who has work
    assert in_fork(lambda: scored(family)) <= (400 if experts else 16)


def attacked(name: str) -> tuple[list[str], list[str]]:
    """Rows of an attack on both, without what rounding may change."""
    import tempfile

    fresh()
    import attack_zoo as az
    from isotone.attacks.objective import TextObjective
    from isotone.attacks.run import run
    from isotone.evaluation.journal import Journal
    from isotone.evaluation.scoring import Scorer

    manifest = az.manifest(3)

    def work(model: Any, move: Any) -> list[str]:
        context = az.context(TextObjective(Scorer(model, 0)), manifest)
        journal = Journal(Path(tempfile.mkdtemp()) / "rows.jsonl", {})
        rows, _, _ = run(name, context, manifest, journal)
        return [f"{row['document']} {row['variant']} {row['J']:.3f}" for row in rows]

    expected, found, _ = both("gpt_neox", work)
    return expected, found


# Without `noise`, which rewrites text and needs a tokenizer, and `strongest`, which reads rows and no model.
@pytest.mark.parametrize("name", sorted(set(SPECS) - {"noise", "strongest"}))
def test_every_attack_runs_there_and_does_the_same_damage(name: str) -> None:
    expected, found = in_fork(lambda: attacked(name))
    assert found and len(found) == len(expected)
    same = sum(one == other for one, other in zip(found, expected, strict=True))
    assert same >= 0.6 * len(found), (found, expected)  # equal gains may be ranked otherwise


def certified(settings: dict[str, Any]) -> tuple[Any, Any]:
    """Verdicts of a constrained model's certificate on both."""
    from isotone.config.constraint import Constraint
    from isotone.constraints import certify, constrain

    constraint, ids = Constraint(**settings), zoo.random_ids(2, 16)

    def work(model: Any, move: Any) -> Any:
        host = constrain(zoo.tiny("gpt_neox"), constraint, ids)
        before = {name: move(value.detach().clone()) for name, value in host.named_parameters()}
        return certify(move(host), constraint, move(ids), before=before, stage="exported")["verdict"]

    return both("gpt_neox", work)[:2]


@pytest.mark.parametrize("settings", [{"init": "abs"}, {"init": "abs", "cone": "strict"}, {"init": "lift"}])
def test_a_certificate_made_there_says_the_same(settings: dict[str, Any]) -> None:
    expected, found = in_fork(lambda: certified({"scope": "mlp_both", **settings}))
    assert found == expected


def controlled() -> tuple[float, float]:
    """Validation loss of a tempered model on both."""
    from isotone.controls.make import mean_nll, scale_logits

    ids = zoo.random_ids(4, 17)

    def work(model: Any, move: Any) -> float:
        scale_logits(model, 0.5)
        return float(mean_nll(model, ids[:, :-1], ids[:, 1:]))

    return both("gpt_neox", work)[:2]


def test_a_control_is_measured_there() -> None:
    expected, found = in_fork(controlled)
    assert found == pytest.approx(expected, rel=1e-5)
