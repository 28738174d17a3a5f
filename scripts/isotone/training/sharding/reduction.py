"""Sums over processes in a fixed binary tree, one shard at a time.

torch's own reduce-scatter adds in an order of its backend's choice. Here every process
first receives all contributions to its shard (all-to-all: as many bytes as a
reduce-scatter sends), and adds them in the order of the tree over leaves. Leaves are
dealt out in turns (leaf = turn x processes + rank), so that one turn is one subtree.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter


def tree_sum(parts: list[Tensor]) -> Tensor:
    """The sum of equally shaped tensors: neighbours first, then pairs of neighbours (in place; ``parts`` is consumed)."""
    while len(parts) > 1:
        odd = [parts.pop()] if len(parts) % 2 else []
        parts[:] = [parts[index].add_(parts[index + 1]) for index in range(0, len(parts), 2)] + odd
    return parts[0]


class TreeReduceScatter(ReduceScatter):
    """What FSDP2 calls instead of the backend's reduce-scatter."""

    def __init__(self, *, compress: bool) -> None:
        """Let gradients travel as bf16 if ``compress``; they are added in their own type all the same."""
        self.compress = compress

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for a message."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> None:
        """Write this process's shard of the sum over all processes to ``output_tensor``.

        Args:
            input_tensor: one shard for each process, one after the other.
        """
        sent = input_tensor.to(torch.bfloat16) if self.compress else input_tensor
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        output_tensor.copy_(tree_sum(list(received.to(output_tensor.dtype).view(group.size(), -1))))


def sum_replicated(values: Tensor, ranks: int) -> Tensor:
    """The same tree for what every process holds whole: small vectors, gathered and added everywhere."""
    if ranks == 1:
        return values
    gathered = [torch.empty_like(values) for _ in range(ranks)]
    dist.all_gather(gathered, values)
    return tree_sum(gathered)
