"""`micro_batch: auto`: the largest leaf that fits, found by trying before step 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from isotone import environment
from isotone.config.training import Operation, Training
from isotone.tasks import Rows
from isotone.training.engine import Engine, is_out_of_memory
from isotone.training.telemetry.events import Events
from isotone.training.telemetry.machine import resident_memory
from isotone.training.world import World


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM


def _peak(device: torch.device) -> int:
    """Bytes at the peak since `_reset_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resident_memory()


def memory_limit(device: torch.device) -> int:
    """Bytes that this process could use: what other programs hold on the same GPU is not among them."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return min(total, free + torch.cuda.memory_reserved(device))
    return environment.total_memory()


def sum_buffers(leaves: int, size: int, reduction: str) -> int:
    """Gradient buffers that summing takes beside the optimizer's own, in each of ``size`` processes.

    `TreeSum` holds log2 of a process's leaves; the pairwise exchange borrows one of them, or
    needs one of its own where a process has a single leaf.
    """
    if reduction != "exact":
        return 0
    own = -(-leaves // size)
    return max((own - 1).bit_length(), 1 if size > 1 else 0)


def candidates(training: Training, size: int) -> list[int]:
    """Powers of two that divide the global batch and leave each of ``size`` processes a leaf."""
    found, leaf = [], 1
    while training.global_batch % leaf == 0 and training.global_batch // leaf >= size:
        found.append(leaf)
        leaf *= 2
    return found


def choose(
    training: Training,
    operation: Operation,
    world: World,
    engine: Engine,
    blocks: Rows,
    flat: torch.Tensor,
    events: Events,
) -> int:
    """The leaf of a run that starts: the setting, or the largest that stays under the target.

    Peak memory grows in proportion to the leaf, so a leaf is tried only while twice the
    last growth would still fit. The buffers of the sum do not exist while one leaf is tried;
    they are counted: smaller leaves need more of them.
    """
    if training.micro_batch != "auto":
        return training.micro_batch_size
    limit = int(
        operation.target_memory * memory_limit(world.device) / (1 if world.device.type == "cuda" else world.size)
    )
    chosen, before = 1, 0
    for leaf in candidates(training, world.size):
        peak = _try(engine, blocks, leaf, world.device)
        flat.zero_()
        buffers = sum_buffers(training.global_batch // leaf, world.size, training.reduction)
        summing = buffers * flat.numel() * flat.element_size()
        too_large, too_many = world.any(peak is None or peak > limit, peak is None or peak + summing > limit)
        if too_large:
            break
        if not too_many:
            chosen = leaf
        growth, before = (peak or 0) - before, peak or 0
        if world.any(before + 2 * growth > limit and leaf > 1)[0]:
            break
    events("micro_batch", micro_batch_size=chosen, limit=limit, peak=before)
    return chosen


def _try(engine: Engine, blocks: Rows, leaf: int, device: torch.device) -> int | None:
    """Peak memory of one leaf; None if it does not fit at all."""
    batch = blocks.batch(np.arange(leaf) % len(blocks)).to(device)
    _reset_peak(device)
    try:
        engine.train(batch, seed=0, step=0, micro_batch=0)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return _peak(device)
