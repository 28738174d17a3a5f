"""fp32 products from parts that TF32 holds; the hardware's rounding is imitated, since a CPU has none."""

from __future__ import annotations

import copy

import pytest
import torch
from isotone.models.loss import Head, token_nll
from isotone.models.split_product import Parts, first_bits, split_product, split_products

from tests.unit import models_zoo as zoo


def test_parts_are_exact_and_fit_tf32() -> None:
    x = torch.randn(1000) * 10.0 ** torch.randint(-6, 6, (1000,))
    parts = Parts.of(x)
    assert torch.equal(parts.hi + parts.lo, x)
    assert (parts.lo.abs() <= x.abs() * 2.0**-10).all()
    assert torch.equal(first_bits(parts.hi), parts.hi)  # TF32 loses nothing of it
    assert not torch.equal(first_bits(x), x)


def test_three_tf32_products_have_the_error_of_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(64, 512), torch.randn(512, 96)
    exact = left.double() @ right.double()

    def off(made: torch.Tensor) -> float:
        return float((made.double() - exact).norm() / exact.norm())

    narrow = off(first_bits(left) @ first_bits(right))
    real = torch.Tensor.addmm_, torch.Tensor.__matmul__
    # what tensor cores do to their inputs
    monkeypatch.setattr(torch.Tensor, "addmm_", lambda self, a, b: real[0](self, first_bits(a), first_bits(b)))
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: real[1](first_bits(a), first_bits(b)))
    made = split_product(left, Parts.of(right))
    assert narrow > 3e-4
    assert off(made) < 1e-6


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
@pytest.mark.parametrize("keep", [True, False])
def test_a_split_model_has_the_same_losses_and_slopes(family: str, keep: bool) -> None:
    model, ids = zoo.tiny(family).requires_grad_(False), zoo.random_ids(2, 12)
    split = copy.deepcopy(model)
    split_products(split, keep=keep)
    weight = model.get_output_embeddings().weight
    found = []
    for one, parts in ((model, None), (split, Parts.of(weight))):
        embeds = one.get_input_embeddings()(ids).detach().requires_grad_()
        hidden = one.base_model(inputs_embeds=embeds).last_hidden_state[:, :-1].flatten(0, 1)
        nll = token_nll(hidden, Head(weight, parts=parts), ids[:, 1:].flatten())
        found.append((nll.detach(), torch.autograd.grad(nll.sum(), embeds)[0]))
    for one, other in zip(*found, strict=True):
        assert not torch.equal(one, other)  # it did go another way
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
