"""The temperature at which a model predicts a text best: what recalibration divides its logits by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from scipy import optimize
from torch import Tensor

from isotone.controls.make import hidden_batches, mean_nll
from isotone.data.batch import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RANGE = (1 / 16, 16.0)  # temperatures that are tried


@torch.no_grad()
def best_temperature(model: PreTrainedModel, inputs_BT: Tensor | Batch, targets_BT: Tensor) -> dict[str, float]:
    """The temperature with the least loss on these blocks, and the losses with and without it.

    The loss is convex in 1 / T, so the least is found by Brent's method; hidden states are computed once.

    Returns:
        ``temperature``, ``nats_per_token`` at it, and ``plain_nats_per_token`` at 1.

    Source: Guo et al. 2017 (arXiv:1706.04599).
    """
    hidden = hidden_batches(model, inputs_BT)

    def loss(log_temperature: float) -> float:
        return mean_nll(model, inputs_BT, targets_BT, temperature=math.exp(log_temperature), hidden=hidden)

    low, high = map(math.log, RANGE)
    found = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return {
        "temperature": math.exp(float(found.x)),
        "nats_per_token": float(found.fun),
        "plain_nats_per_token": loss(0.0),
    }
