"""What only a real GPU shows; elsewhere these are listed as not run."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit import models_zoo as zoo

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def strict() -> object:
    from isotone.devices import choose_kernels

    choose_kernels(True)
    yield
    torch.use_deterministic_algorithms(False)


def off(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def test_products_of_parts_have_the_error_of_fp32() -> None:
    from isotone.models.split_product import Parts, split_product

    left, right = torch.randn(300, 2048, device=CUDA), torch.randn(2048, 700, device=CUDA)
    exact = left.double() @ right.double()
    assert off(split_product(left, Parts.of(right)), exact) < 2e-6
    assert off(left @ right, exact) < 2e-6  # and fp32 itself is no TF32


def test_products_in_bf16_come_back_unrounded() -> None:
    from isotone.devices import product

    left, right = (torch.randn(512, 512, device=CUDA).bfloat16() for _ in range(2))
    exact = left.double() @ right.double()
    assert off(product(left, right), exact) < 1e-5
    assert off(left @ right, exact) > 1e-3


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
def test_a_scorer_on_the_card_gives_the_losses_and_slopes_of_the_cpu(family: str) -> None:
    from isotone.evaluation.scoring import Scorer

    model, ids = zoo.tiny(family), zoo.random_ids(3, 40)
    here, there = Scorer(copy.deepcopy(model), 0), Scorer(model.to(CUDA), 0)
    assert there.head.parts is not None
    torch.testing.assert_close(there.texts(ids), here.texts(ids), rtol=1e-4, atol=1e-5)
    weights = torch.ones(ids.shape)
    for one, other in zip(there.gradients(ids, weights), here.gradients(ids, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    rows, places, tokens = np.array([0, 1, 2, 0]), np.array([5, 20, 33, 38]), np.array([3, 4, 5, 6])
    flipped = [scorer.flips(ids, scorer.texts(ids), rows, places, tokens) for scorer in (there, here)]
    torch.testing.assert_close(*flipped, rtol=1e-4, atol=1e-5)


def test_tokens_are_ranked_on_the_card() -> None:
    from isotone.attacks.proposals import rank_flips

    grad, allowed, current = torch.randn(9, 16), torch.randn(500, 16), torch.randn(9, 16)
    standing = torch.tensor([0, -1, 5, 7, -1, 9, 499, 1, 2])
    expected = rank_flips(grad, allowed, current, standing, keep=5)
    found = rank_flips(grad.to(CUDA), allowed.to(CUDA), current.to(CUDA), standing.to(CUDA), keep=5)
    assert found[0].device.type == "cuda"
    assert torch.equal(found[0].cpu(), expected[0])
    torch.testing.assert_close(found[1].cpu(), expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [{}, {"gradient_checkpointing": True, "compile": True}])
def test_a_run_on_the_card_repeats_its_bits_and_has_the_loss_of_the_cpu(training: dict, tmp_path: Path) -> None:
    import json
    import os

    from tests.resume.tiny import CONSTRAINED, Study

    study = Study.make(tmp_path / "study", model={"constraint": CONSTRAINED})
    settings = {"constraint": CONSTRAINED, "training": training}
    results = {}
    for name, variables in (("one", {}), ("two", {}), ("cpu", {"CUDA_VISIBLE_DEVICES": ""})):
        ended = study.run(tmp_path / name, settings, variables={**os.environ, **variables})
        assert ended.returncode == 0, ended.stderr
        results[name] = json.loads((tmp_path / name / "train.json").read_text())
    assert results["one"]["cost"]["device"] == "cuda" and results["cpu"]["cost"]["device"] == "cpu"
    one, two, cpu = (results[name]["result"] for name in ("one", "two", "cpu"))
    assert one == two and one["bitwise"] and one["kernels"] == "deterministic"
    assert one["final_loss"] == pytest.approx(cpu["final_loss"], rel=1e-2)
