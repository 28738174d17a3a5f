"""The vocabulary projection and its loss, a few rows at a time.

This is the only place where logits are made. A [batch, length, vocabulary] tensor
in fp32 never exists: rows of hidden states go through projection, softmax and
gradient in chunks. (torch's own ``F.linear_cross_entropy`` returned a wrong mean for
bf16 input on CPU when it was tried: 9.19 where 10.88 was right.)
"""

# Shape suffixes: N = rows (batch x positions), D = width, V = vocabulary, R = rows of one chunk.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from isotone import devices
from isotone.models.split_product import Parts, split_product

IGNORE = -100


@dataclass(frozen=True)
class Head:
    """A vocabulary projection: ``logits = scale * (hidden @ weight.T + bias)``, then ``cap * tanh(logits / cap)``.

    ``parts`` of the weight, where there are any, take its place in products in fp32.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float = 0.0  # 0: none
    parts: Parts | None = None

    def logits(self, hidden_RD: Tensor, columns: slice = slice(None)) -> Tensor:
        """fp32 logits of some rows, for some tokens; the product itself runs in the hidden states' type."""
        if self.parts is not None:
            logits_RC = split_product(hidden_RD, Parts(self.parts.hi[columns], self.parts.lo[columns]).T)
        else:
            logits_RC = devices.product(hidden_RD, self.weight_VD[columns].T.to(hidden_RD.dtype))
        if self.bias_V is not None:
            logits_RC += self.bias_V[columns].float()
        logits_RC = logits_RC if self.scale == 1.0 else logits_RC * self.scale
        return logits_RC.div_(self.cap).tanh_().mul_(self.cap) if self.cap else logits_RC

    def slope(self, logits_RC: Tensor) -> Tensor | None:
        """Derivative of the cap, from what it gave; None where there is no cap, 1 everywhere."""
        return 1 - (logits_RC / self.cap).square() if self.cap else None

    def tempered(self, temperature: float) -> Head:
        """The head whose logits are these divided by ``temperature``, the cap's effect included."""
        return replace(self, scale=self.scale / temperature, cap=self.cap / temperature)

    def narrow(self, dtype: torch.dtype) -> Head:
        """The same projection with its weight in ``dtype``: cast once, not again for every chunk of rows."""
        return replace(self, weight_VD=self.weight_VD.to(dtype))


def chunk_rows(vocabulary: int, device: torch.device, most: int = 0) -> int:
    """Rows per chunk, fewer for a large vocabulary; the same on every device of a kind. ``most`` bounds it, 0 does not."""
    rows = devices.head_rows(vocabulary, device)
    return min(rows, most) if most else rows


def _chunks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _row_nll(head: Head, hidden_RD: Tensor, targets_R: Tensor, columns: int) -> Tensor:
    """NLL of some rows, ``columns`` tokens at a time; logits of a tile are used while they are in the cache."""
    normalisers, picked_R = [], hidden_RD.new_zeros(len(targets_R), dtype=torch.float32)
    for tile in _chunks(len(head.weight_VD), columns):
        logits_RC = head.logits(hidden_RD, tile)
        column_R = targets_R - tile.start
        here_R = logits_RC.gather(1, column_R.clamp(0, logits_RC.shape[1] - 1)[:, None])[:, 0]
        picked_R = torch.where((column_R >= 0) & (column_R < logits_RC.shape[1]), here_R, picked_R)
        # The log-sum-exp, by way of log_softmax: on CPU that takes half the time of torch.logsumexp.
        normalisers.append(logits_RC.amax(-1) - logits_RC.log_softmax(-1).amax(-1))
    whole_R = normalisers[0] if len(normalisers) == 1 else torch.logsumexp(torch.stack(normalisers, dim=-1), dim=-1)
    return whole_R - picked_R


class _Gradients:
    """Gradients of a head, gathered chunk by chunk (weight and bias in fp32)."""

    def __init__(self, hidden_ND: Tensor, head: Head, wanted: tuple[bool, bool, bool]) -> None:
        self.head = head
        self.hidden_ND = torch.empty_like(hidden_ND) if wanted[0] else None
        self.weight_VD = torch.zeros_like(head.weight_VD, dtype=torch.float32) if wanted[1] else None
        bias = head.bias_V
        self.bias_V = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None

    def add(self, rows: slice, hidden_RD: Tensor, grad_RV: Tensor, slope_RV: Tensor | None) -> None:
        """Take dL/dlogits of some rows (consumed: it is scaled in place) and the slope of the head's cap there."""
        if slope_RV is not None:
            grad_RV.mul_(slope_RV)
        if self.head.scale != 1.0:
            grad_RV.mul_(self.head.scale)
        low_RV = grad_RV.to(hidden_RD.dtype)
        if self.hidden_ND is not None:
            self.hidden_ND[rows] = (
                low_RV @ self.head.weight_VD if self.head.parts is None else split_product(low_RV, self.head.parts)
            )
        if self.weight_VD is not None:
            if low_RV.dtype == torch.float32:
                self.weight_VD.addmm_(low_RV.T, hidden_RD)
            else:
                self.weight_VD += devices.product(low_RV.T, hidden_RD)
        if self.bias_V is not None:
            self.bias_V += grad_RV.sum(0)


class _TokenNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        head: Head,
        rows: int,
        columns: int,
    ) -> Tensor:
        nll_N = hidden_ND.new_zeros(len(targets_N), dtype=torch.float32)
        for part in _chunks(len(targets_N), rows):
            nll_N[part] = _row_nll(head, hidden_ND[part], targets_N[part], columns)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N)
        ctx.head, ctx.rows = (head.scale, head.cap, head.parts), chunk_rows(len(weight_VD), hidden_ND.device, rows)
        return nll_N.masked_fill_(targets_N < 0, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, targets_N = ctx.saved_tensors
        grad_N = grads[0].masked_fill(targets_N < 0, 0.0)
        head = Head(weight_VD, bias_V, *ctx.head).narrow(hidden_ND.dtype)
        gathered = _Gradients(hidden_ND, head, ctx.needs_input_grad[:3])
        for part in _chunks(len(targets_N), ctx.rows):
            hidden_RD = hidden_ND[part]
            logits_RV = head.logits(hidden_RD)
            slope_RV = head.slope(logits_RV)
            grad_RV = torch.softmax(logits_RV, dim=-1)
            grad_RV.scatter_add_(1, targets_N[part].clamp_min(0)[:, None], torch.full_like(grad_RV[:, :1], -1.0))
            gathered.add(part, hidden_RD, grad_RV.mul_(grad_N[part][:, None]), slope_RV)
        return (
            gathered.hidden_ND,
            _like(gathered.weight_VD, weight_VD),
            _like(gathered.bias_V, bias_V),
            *(None,) * 4,
        )


def _like(grad: Tensor | None, of: Tensor | None) -> Tensor | None:
    return grad if grad is None or of is None else grad.to(of.dtype)


def _check(hidden_ND: Tensor, targets_N: Tensor) -> None:
    if hidden_ND.ndim != 2 or targets_N.shape != hidden_ND.shape[:1]:
        shapes = f"{tuple(hidden_ND.shape)} and {tuple(targets_N.shape)}"
        raise ValueError(f"hidden states and targets have shapes {shapes}; [N, D] and [N] are needed")


def token_nll(
    hidden_ND: Tensor,
    head: Head,
    targets_N: Tensor,
    *,
    rows: int = 0,
    columns: int = 0,
    ignore: int = IGNORE,
) -> Tensor:
    """Negative log-likelihood of each target.

    Differentiable with respect to hidden states, weight and bias; the backward pass
    makes the logits again instead of keeping them.

    Args:
        rows: largest number of rows whose logits exist at once; 0: by the device.
        columns: tokens whose logits exist at once in the forward pass; 0: all, and fewer rows if need be.
        ignore: target of a row that is not scored.
    Returns:
        nll_N in nats, fp32; ignored rows are 0 and have no gradient.
    Raises:
        ValueError: if the shapes do not fit.
    """
    _check(hidden_ND, targets_N)
    targets_N = targets_N.masked_fill(targets_N == ignore, -1)
    if not columns or not rows:
        columns = columns or len(head.weight_VD)
        rows = chunk_rows(columns, hidden_ND.device, rows)
    parts = hidden_ND, head.weight_VD, head.bias_V
    return _TokenNLL.apply(*parts, targets_N, head, rows, columns)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Teacher:
    """Another model's hidden states for the same rows, and how much to follow it."""

    hidden_ND: Tensor
    head: Head
    alpha: float
    temperature: float


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        head: Head,
        teacher: Teacher | None,
    ) -> Tensor:
        head = Head(weight_VD, bias_V, head.scale, head.cap).narrow(hidden_ND.dtype)
        if teacher is not None:
            teacher = replace(teacher, head=teacher.head.narrow(teacher.hidden_ND.dtype))
        gathered = _Gradients(hidden_ND, head, ctx.needs_input_grad[:3])
        total = hidden_ND.new_zeros((), dtype=torch.float64 if hidden_ND.device.type == "cpu" else torch.float32)
        for part in _chunks(len(targets_N), chunk_rows(len(weight_VD), hidden_ND.device)):
            hidden_RD, targets_R = hidden_ND[part], targets_N[part]
            unscored_R = targets_R < 0
            logits_RV = head.logits(hidden_RD)
            slope_RV = head.slope(logits_RV)
            loss_R, grad_RV = _row_loss(logits_RV, targets_R.clamp_min(0), teacher, part)
            total += loss_R.masked_fill(unscored_R, 0.0).sum(dtype=total.dtype)
            gathered.add(part, hidden_RD, grad_RV.masked_fill_(unscored_R[:, None], 0.0), slope_RV)
        ctx.grads = gathered.hidden_ND, _like(gathered.weight_VD, weight_VD), _like(gathered.bias_V, bias_V)
        return total.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        factor = grads[0]
        made = tuple(grad if grad is None else grad.mul_(factor.to(grad.dtype)) for grad in ctx.grads)
        del ctx.grads
        return (*made, None, None, None)


def _softmax(logits_RV: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities, in place of the logits, and the negative log-probability of one column.

    Written out because on CPU it is several times faster than log_softmax and exp.
    """
    logits_RV -= logits_RV.amax(dim=-1, keepdim=True)
    picked_R1 = logits_RV.gather(1, column)
    total_R1 = logits_RV.exp_().sum(dim=-1, keepdim=True)
    return logits_RV.div_(total_R1), (total_R1.log() - picked_R1)[:, 0]


def _row_loss(logits_RV: Tensor, targets_R: Tensor, teacher: Teacher | None, part: slice) -> tuple[Tensor, Tensor]:
    """Loss per row and its gradient with respect to the logits (which are consumed)."""
    column = targets_R[:, None]
    if teacher is None:
        grad_RV, loss_R = _softmax(logits_RV, column)
        return loss_R, grad_RV.scatter_add_(1, column, torch.full_like(grad_RV[:, :1], -1.0))
    heat, alpha = teacher.temperature, teacher.alpha
    log_q_RV = torch.log_softmax(teacher.head.logits(teacher.hidden_ND[part]) / heat, dim=-1)
    log_s_RV = torch.log_softmax(logits_RV / heat, dim=-1)
    q_RV = log_q_RV.exp()
    divergence_R = (q_RV * (log_q_RV - log_s_RV)).sum(-1)
    grad_RV, loss_R = _softmax(logits_RV, column)
    grad_RV.scatter_add_(1, column, torch.full_like(grad_RV[:, :1], -1.0)).mul_(1 - alpha)
    loss_R = (1 - alpha) * loss_R + alpha * heat**2 * divergence_R
    return loss_R, grad_RV.add_(log_s_RV.exp_() - q_RV, alpha=alpha * heat)


def summed_loss(
    hidden_ND: Tensor,
    head: Head,
    targets_N: Tensor,
    *,
    teacher: Teacher | None = None,
    ignore: int = IGNORE,
) -> Tensor:
    """The sum over scored rows of the training loss, in nats (a scalar).

    The gradient is made in the forward pass, while a chunk's logits exist, and only
    scaled in the backward pass; so it can be called for its backward pass once.

    With a teacher the loss of a row is ``(1 - alpha) nll + alpha T^2 KL(teacher || student)``,
    both distributions at temperature T.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Hinton et al. 2015 (arXiv:1503.02531), section 2, for the factor T^2.
    """
    _check(hidden_ND, targets_N)
    targets_N = targets_N.masked_fill(targets_N == ignore, -1)
    with torch.autocast(hidden_ND.device.type, enabled=False):  # the type of the hidden states decides
        return _SummedLoss.apply(hidden_ND, head.weight_VD, head.bias_V, targets_N, head, teacher)  # type: ignore[no-any-return]
