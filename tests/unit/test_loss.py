"""The chunked loss against the plain one: values, gradients, memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from isotone.models.loss import Head, Teacher, chunk_rows, summed_loss, token_nll
from torch import Tensor


def inputs(
    rows: int = 700, width: int = 16, vocabulary: int = 50, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    bias = torch.randn(vocabulary, requires_grad=True)
    targets = torch.randint(0, vocabulary, (rows,))
    targets[::7] = -100
    return hidden, weight, bias, targets


def capped(logits: torch.Tensor, cap: float) -> torch.Tensor:
    return cap * torch.tanh(logits / cap) if cap else logits


def test_a_tempered_head_divides_its_logits_whatever_follows_them() -> None:
    hidden, weight, bias, _ = inputs()
    for cap in (0.0, 2.5):
        head = Head(weight, bias, 0.7, cap)
        with torch.no_grad():
            assert torch.allclose(head.tempered(3.0).logits(hidden), head.logits(hidden) / 3.0, atol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(1, 0), (64, 0), (1024, 0), (64, 1), (64, 7), (1024, 25), (64, 64)])
@pytest.mark.parametrize(("scale", "cap"), [(1.0, 0.0), (0.5, 0.0), (0.5, 3.0)])
def test_token_nll_is_cross_entropy(rows: int, columns: int, scale: float, cap: float) -> None:
    hidden, weight, bias, targets = inputs()
    plain = functional.cross_entropy(capped(scale * (hidden @ weight.T + bias), cap), targets, reduction="none")
    ours = token_nll(hidden, Head(weight, bias, scale, cap), targets, rows=rows, columns=columns)
    assert torch.allclose(ours, plain, atol=1e-5)
    assert (ours[targets == -100] == 0).all()
    upstream = torch.randn(len(targets))
    wanted = torch.autograd.grad((plain * upstream).sum(), (hidden, weight, bias))
    found = torch.autograd.grad((ours * upstream).sum(), (hidden, weight, bias))
    for one, other in zip(wanted, found, strict=True):
        assert torch.allclose(one, other, atol=2e-5 * float(one.abs().max()))


def test_only_wanted_gradients_are_made_and_all_ignored_is_zero() -> None:
    hidden, weight, _, targets = inputs()
    loss = token_nll(hidden, Head(weight.detach()), targets).sum()
    loss.backward()
    assert hidden.grad is not None
    nothing = token_nll(hidden.detach(), Head(weight), torch.full_like(targets, -100)).sum()
    nothing.backward()
    assert float(nothing) == 0
    assert float(weight.grad.abs().max()) == 0


@pytest.mark.parametrize(("scale", "cap"), [(1.0, 0.0), (3.0, 0.0), (3.0, 4.0)])
def test_the_training_form_has_the_same_sum_and_gradient(scale: float, cap: float) -> None:
    hidden, weight, bias, targets = inputs()
    plain = functional.cross_entropy(capped(scale * (hidden @ weight.T + bias), cap), targets, reduction="sum") / 9
    wanted = torch.autograd.grad(plain, (hidden, weight, bias))
    ours = summed_loss(hidden, Head(weight, bias, scale, cap), targets) / 9
    found = torch.autograd.grad(ours, (hidden, weight, bias))
    assert torch.allclose(ours, plain)
    for one, other in zip(wanted, found, strict=True):
        assert torch.allclose(one, other, atol=2e-5 * float(one.abs().max()))


@pytest.mark.parametrize(("alpha", "heat"), [(0.3, 1.0), (1.0, 2.5)])
def test_distillation_is_the_textbook_loss(alpha: float, heat: float) -> None:
    hidden, weight, bias, targets = inputs()
    teacher_hidden, teacher_weight = torch.randn(700, 24), torch.randn(50, 24)
    scored = (targets >= 0).float()
    student = hidden @ weight.T + bias
    q = torch.softmax(teacher_hidden @ teacher_weight.T / heat, -1)
    divergence = functional.kl_div(torch.log_softmax(student / heat, -1), q, reduction="none").sum(-1)
    nll = functional.cross_entropy(student, targets, reduction="none")
    plain = (((1 - alpha) * nll + alpha * heat**2 * divergence) * scored).sum()
    teacher = Teacher(teacher_hidden, Head(teacher_weight), alpha, heat)
    ours = summed_loss(hidden, Head(weight, bias), targets, teacher=teacher)
    assert torch.allclose(ours, plain, rtol=1e-5)
    wanted = torch.autograd.grad(plain, (hidden, weight, bias))
    found = torch.autograd.grad(ours, (hidden, weight, bias))
    for one, other in zip(wanted, found, strict=True):
        assert torch.allclose(one, other, atol=5e-5 * float(one.abs().max()))


def test_bf16_hidden_states_give_a_right_mean() -> None:
    """torch's fused form was wrong here (9.19 for 10.88)."""
    hidden, weight, _, targets = inputs(rows=3000, vocabulary=300, dtype=torch.bfloat16)
    exact = functional.cross_entropy(hidden.float() @ weight.T, targets, reduction="mean")
    scored = int((targets >= 0).sum())
    assert abs(float(summed_loss(hidden, Head(weight), targets)) / scored - float(exact)) < 0.02 * float(exact)
    assert abs(float(token_nll(hidden, Head(weight), targets).sum()) / scored - float(exact)) < 0.02 * float(exact)
    loss = summed_loss(hidden, Head(weight), targets)
    loss.backward()
    assert hidden.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32


def test_a_token_that_the_head_excludes_costs_no_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden_ND, weight_VD = torch.randn(5, 8, generator=generator), torch.randn(40, 8, generator=generator)
    bias_V = torch.zeros(40)
    bias_V[::4] = -1e9
    targets_N = torch.tensor([1, 2, 3, 5, 39])
    expected_N = functional.cross_entropy(
        hidden_ND.double() @ weight_VD.double().T + bias_V, targets_N, reduction="none"
    )
    found_N = token_nll(hidden_ND, Head(weight_VD, bias_V), targets_N, columns=8)
    torch.testing.assert_close(found_N.double(), expected_N, rtol=1e-5, atol=1e-5)


def test_logits_of_huge_size_stay_finite() -> None:
    hidden, weight = torch.full((4, 2), 300.0), torch.tensor([[300.0, 300.0], [0.0, 0.0], [-300.0, -300.0]])
    loss = summed_loss(hidden, Head(weight), torch.tensor([0, 0, 0, 0]))
    assert float(loss) == 0
    assert float(token_nll(hidden, Head(weight), torch.tensor([1, 1, 1, 1])).mean()) == pytest.approx(180_000)


def test_chunks_shrink_with_the_vocabulary_and_shapes_are_checked() -> None:
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert chunk_rows(2048, cpu) == 1024  # bits of CPU results hang on it
    assert chunk_rows(50_304, cpu) * 50_304 <= 1 << 22
    assert chunk_rows(1 << 30, cpu) == 1
    assert chunk_rows(50_304, meta) == 4096  # an accelerator reads the head's weights seldom
    assert chunk_rows(152_064, meta) * 152_064 <= 1 << 28
    assert chunk_rows(50_304, meta, 100) == 100
    hidden, weight, _, targets = inputs()
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        token_nll(hidden[None], Head(weight), targets)
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        summed_loss(hidden, Head(weight), targets[1:])
