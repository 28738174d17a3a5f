"""fp32 products on tensor cores: every factor in two parts that TF32 holds, three products, sums in fp32.

An H100 multiplies fp32 at 51 TFLOP/s and TF32 (10 bits of mantissa) at 408, measured. A factor x is hi + lo, hi its first 10 bits and
lo the exact rest; ``hi hi' + hi lo' + lo hi'`` leaves out only lo lo', 2^-22 of the result. Tensor cores add up less exactly
than fp32 does: a token's loss under 4 layers of Pythia-1.4B's width is 1.1e-5 nats from fp64's, in plain fp32 1.2e-6 (measured).

Shape suffixes: N = rows, I = inputs, O = outputs.

Source: the scheme of CUTLASS's 3xTF32 (OpMultiplyAddFastF32), which torch's fp32 attention uses as well.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

DROPPED = 13  # bits of an fp32 mantissa that TF32 has not


def first_bits(x: Tensor) -> Tensor:
    """The part of fp32 values that TF32 holds exactly; any shape."""
    return (x.contiguous().view(torch.int32) & -(1 << DROPPED)).view(torch.float32)


class Parts(NamedTuple):
    """An fp32 tensor as ``hi + lo``."""

    hi: Tensor
    lo: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Parts:
        """Split it; exact."""
        hi = first_bits(x)
        return cls(hi, x - hi)

    @property
    def T(self) -> Parts:
        """The parts of the transposed matrix."""
        return Parts(self.hi.T, self.lo.T)


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def split_product(left_NI: Tensor, right_IO: Parts, bias_O: Tensor | None = None) -> Tensor:
    """``left @ right + bias`` in fp32, [N, O]; the small parts are summed first. No gradient."""
    left = Parts.of(left_NI)
    with _tf32():
        made = left.lo @ right_IO.hi if bias_O is None else torch.addmm(bias_O, left.lo, right_IO.hi)
        return made.addmm_(left.hi, right_IO.lo).addmm_(left.hi, right_IO.hi)


class _Linear(torch.autograd.Function):
    """A frozen linear map; only its input has a gradient."""

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight: Tensor, bias_O: Tensor | None, kept: Parts | None, turn: bool
    ) -> Tensor:
        ctx.weight, ctx.kept, ctx.turn = weight, kept, turn
        parts = kept or Parts.of(weight)
        return split_product(x_NI, parts.T if turn else parts, bias_O)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        parts = ctx.kept or Parts.of(ctx.weight)
        return split_product(grads[0], parts if ctx.turn else parts.T), None, None, None, None


def _forward(module: Any, x: Tensor, *, kept: Parts | None, turn: bool) -> Tensor:
    made = _Linear.apply(x.flatten(0, -2), module.weight, module.bias, kept, turn)
    return made.unflatten(0, x.shape[:-1])  # type: ignore[no-any-return]


def split_products(model: nn.Module, *, keep: bool) -> None:
    """Let the linear maps of a frozen fp32 model compute so; its vocabulary projection is `Head`'s affair.

    Args:
        keep: hold the parts of all weights, twice the model's size; else they are made for every product.
    """
    from transformers.pytorch_utils import Conv1D

    for module in model.modules():
        if isinstance(module, (nn.Linear, Conv1D)) and module.weight.dtype == torch.float32:
            linear: Any = module
            kept = Parts.of(linear.weight.detach()) if keep else None
            forward: Any = functools.partial(_forward, kept=kept, turn=isinstance(module, nn.Linear))
            linear.forward = types.MethodType(forward, module)
