"""Non-negative least squares by accelerated projected gradients on a Gram matrix.

Shape suffixes: N = tokens, I = inputs, O = outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHECK_EVERY = 25
CLOSE = 1e-6  # stop once the optimality conditions hold to this share of the largest weight


@dataclass(frozen=True)
class Problem:
    """min over W >= 0 of ``mean |y - W x - b|^2 + ridge |W|^2``, with b free or absent.

    Attributes:
        gram_II: second moments of x (centred if b is free), plus the ridge on the diagonal.
        cross_OI: second moments of y and x, likewise.
        power_O: mean squares of y, likewise.
        mean_I, mean_O: what was taken off; zero without b.
    """

    gram_II: Tensor
    cross_OI: Tensor
    power_O: Tensor
    mean_I: Tensor
    mean_O: Tensor

    def objective(self, weight_OI: Tensor) -> float:
        """The value at W, summed over outputs, with the best b."""
        weight_OI = weight_OI.double()
        quadratic = ((weight_OI @ self.gram_II) * weight_OI).sum(1)
        return float((quadratic - 2 * (weight_OI * self.cross_OI).sum(1) + self.power_O).sum())

    def bias(self, weight_OI: Tensor) -> Tensor:
        """The best b for W: [O]."""
        return self.mean_O - weight_OI.double() @ self.mean_I


def problem(x_NI: Tensor, y_NO: Tensor, *, ridge: float, free_bias: bool) -> Problem:
    """Sum the moments in fp64.

    Args:
        ridge: as a share of the mean diagonal of the Gram matrix.
    """
    x_NI, y_NO = x_NI.double(), y_NO.double()
    mean_I = x_NI.mean(0) if free_bias else x_NI.new_zeros(x_NI.shape[1])
    mean_O = y_NO.mean(0) if free_bias else y_NO.new_zeros(y_NO.shape[1])
    x_NI, y_NO = x_NI - mean_I, y_NO - mean_O
    count = len(x_NI)
    gram_II = x_NI.T @ x_NI / count
    gram_II.diagonal().add_(ridge * gram_II.diagonal().mean().clamp_min(1e-30))
    return Problem(gram_II, y_NO.T @ x_NI / count, y_NO.square().mean(0), mean_I, mean_O)


def optimality_gap(weight_OI: Tensor, gram_II: Tensor, cross_OI: Tensor) -> float:
    """How far W is from the Karush-Kuhn-Tucker point, as a share of its largest entry.

    At the optimum ``W = max(0, W - D (W G - C))`` for every positive diagonal D; here D = 1 / diag G,
    the exact step of each coordinate.
    """
    step = (weight_OI @ gram_II - cross_OI) / gram_II.diagonal()
    moved = weight_OI - (weight_OI - step).clamp_min(0)
    return float(moved.abs().max() / weight_OI.abs().max().clamp_min(1e-30))


def solve(task: Problem, start_OI: Tensor, iterations: int) -> Tensor:
    """The minimiser by FISTA with adaptive restart, never worse than ``max(start, 0)``.

    Columns are scaled to a unit diagonal of the Gram matrix, which leaves the cone as it is and
    shortens the way. Deterministic.

    Args:
        start_OI: where to begin.
        iterations: at most so many; fewer once the optimality conditions hold to 1e-6.

    Source: Beck & Teboulle 2009 (FISTA); O'Donoghue & Candes 2015 (restart by the gradient's sign).
    """
    dtype = torch.float64 if start_OI.device.type == "cuda" else torch.float32  # fp32 is twice as fast on a CPU
    scale_I = task.gram_II.diagonal().sqrt()
    gram_II = (task.gram_II / scale_I / scale_I[:, None]).to(dtype)
    cross_OI = (task.cross_OI / scale_I).to(dtype)
    first_OI = start_OI.double().clamp_min(0)
    now_OI = (first_OI * scale_I).to(dtype)
    step = 1.0 / float(torch.linalg.eigvalsh(gram_II.double())[-1]) / 1.001
    ahead_OI, momentum = now_OI, 1.0
    for iteration in range(iterations):
        gradient_OI = ahead_OI @ gram_II - cross_OI
        next_OI = (ahead_OI - step * gradient_OI).clamp_min(0)
        if bool(((ahead_OI - next_OI) * (next_OI - now_OI)).sum() > 0):
            momentum = 1.0
        longer = 0.5 * (1 + (1 + 4 * momentum**2) ** 0.5)
        ahead_OI = next_OI + ((momentum - 1) / longer) * (next_OI - now_OI)
        now_OI, momentum = next_OI, longer
        if iteration % CHECK_EVERY == CHECK_EVERY - 1 and optimality_gap(now_OI, gram_II, cross_OI) < CLOSE:
            break
    found_OI = now_OI.double() / scale_I
    return found_OI if task.objective(found_OI) <= task.objective(first_OI) else first_OI
