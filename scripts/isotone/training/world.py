"""One or many processes: what they agree on, and how gradients are summed.

The sum over leaves is a fixed binary tree. Within a process it is built as a binary
counter; between processes by pairwise exchanges (recursive doubling). Each process
holds a contiguous range of leaves, so for 1, 2, 4 ... processes it is the same tree
and the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from isotone import devices
from isotone.config.training import Operation, Training
from isotone.errors import ConfigurationError, InputOutputError
from isotone.training.supervision.outcome import ResourceError


class World:
    """The processes that train one model together."""

    def __init__(self, device: torch.device, rank: int = 0, size: int = 1) -> None:
        """Describe a world; `join` makes one from torchrun's environment."""
        self.device, self.rank, self.size = device, rank, size

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process."""
        if self.size == 1:
            return list(flags)
        votes = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return [vote > 0 for vote in votes.tolist()]

    def table(self, rows: Tensor) -> Tensor:
        """Fill in a table of which each process knows its own rows and has zeros elsewhere."""
        if self.size > 1:
            rows = rows.to(self.device)
            dist.all_reduce(rows)
        return rows.cpu()

    def share(self, value: Any) -> Any:
        """The first process's value, for everyone (plain data)."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def insist_equal(self, facts: Mapping[str, str]) -> None:
        """Refuse to train where processes run other software, or read other files.

        Args:
            facts: what this process has, by name.

        Raises:
            ConfigurationError: in every process; says what differs, and between which.
        """
        if self.size == 1:
            return
        found: list[dict[str, str]] = [{}] * self.size
        dist.all_gather_object(found, dict(facts))
        differ = {
            name: {rank: other[name] for rank, other in enumerate(found) if other[name] != found[0][name]}
            for name in facts
        }
        if any(differ.values()):
            name, others = next((name, others) for name, others in differ.items() if others)
            rank, value = next(iter(others.items()))
            raise ConfigurationError(
                f"The {self.size} processes of this run do not have the same {name}: process 0 has {found[0][name]}, process "
                f"{rank} has {value}. Use one environment and one copy of the study on all nodes (a shared file system, or "
                "the same container)."
            )

    def copy_from_leader(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors with the first process's."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def sum_exact(self, values: Tensor, partner_values: Tensor) -> None:
        """Add up over processes, pairwise: the same bits everywhere (in place).

        Args:
            partner_values: room for another process's values, like ``values``; unused alone. Memory that runs out
                here would leave the other processes waiting, so the caller has it before they begin.
        """
        distance = 1
        while distance < self.size:
            partner = self.rank ^ distance
            exchange = [
                dist.P2POp(dist.isend, values, partner),
                dist.P2POp(dist.irecv, partner_values, partner),
            ]
            for request in dist.batch_isend_irecv(exchange):
                request.wait()
            values += partner_values  # a + b = b + a, so both partners get the same bits
            distance *= 2

    def sum_fast(self, values: Tensor, *, bucket: int, compress: bool) -> None:
        """Add up over processes with all-reduce (in place).

        Args:
            bucket: elements per message.
            compress: let them travel as bf16.
        """
        if self.size == 1:
            return
        for part in values.split(bucket):
            if compress:
                small = part.to(torch.bfloat16)
                dist.all_reduce(small)
                part.copy_(small)
            else:
                dist.all_reduce(part)

    def leave(self) -> None:
        """Take down the process group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join(operation: Operation) -> World:
    """The world that torchrun describes in the environment; without it, this process alone.

    Raises:
        ConfigurationError: if the processes hold GPUs that torch cannot use.
        InputOutputError: if they do not reach each other.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = devices.choose(int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if size > 1:
        connect(device, operation)
    return World(device, rank, size)


def connect(device: torch.device, operation: Operation) -> None:
    """Make the process group, and send a first word through it, before anything is loaded.

    Raises:
        InputOutputError: if that fails, or takes longer than operation.collective_minutes; another try may do better.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    if operation.network_interface:
        os.environ["NCCL_SOCKET_IFNAME"] = os.environ["GLOO_SOCKET_IFNAME"] = operation.network_interface
    if operation.p2p_level:
        os.environ["NCCL_P2P_LEVEL"] = operation.p2p_level
    try:
        dist.init_process_group(
            backend,
            timeout=timedelta(minutes=operation.collective_minutes),
            device_id=device if device.type == "cuda" else None,
        )
        dist.all_reduce(torch.ones(1, device=device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except (RuntimeError, ValueError) as error:  # torch's own errors of networks and of NCCL are RuntimeErrors
        used = os.environ.get(f"{backend.upper()}_SOCKET_IFNAME", "chosen by itself")
        meeting = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        raise InputOutputError(
            f"The {os.environ['WORLD_SIZE']} processes of this run did not reach each other with {backend} (meeting at {meeting}, "
            f"network interface {used}): {str(error).splitlines()[0]}. Name the interface that joins the nodes (ip -brief "
            "address lists them) in operation.network_interface, and see docs/cluster.md."
        ) from error


def leaf_range(world: World, leaves: int, training: Training) -> range:
    """The contiguous leaves of this process.

    Raises:
        ResourceError: if `exact` cannot deal them out.
    """
    if training.reduction == "exact" and (world.size & (world.size - 1) or world.size > leaves):
        raise ResourceError(
            f"{world.size} processes cannot share {leaves} leaves (training.global_batch / training.micro_batch_size) with "
            "training.reduction = exact. Start a power of two of processes, at most one per leaf, or choose reduction: fast."
        )
    if world.size > leaves:
        raise ResourceError(
            f"{world.size} processes share {leaves} leaves. Start fewer, or choose a smaller training.micro_batch_size."
        )
    edges = [rank * leaves // world.size for rank in range(world.size + 1)]
    return range(edges[world.rank], edges[world.rank + 1])


class TreeSum:
    """Adds gradients of leaves in the order of a binary tree; holds log2(leaves) buffers."""

    def __init__(self) -> None:
        """Start empty."""
        self._partial: list[tuple[int, Tensor]] = []
        self._free: list[Tensor] = []

    def add(self, leaf: Tensor) -> None:
        """Take one leaf's gradient (copied or added, not kept)."""
        self.add_by(lambda buffer, more: buffer.add_(leaf) if more else buffer.copy_(leaf), like=leaf)

    def add_by(self, put: Callable[[Tensor, bool], object], *, like: Tensor) -> None:
        """Take one leaf's gradient from where it lies.

        Args:
            put: writes it to a buffer, or adds it to what is there if its second argument is true.
            like: something of the buffers' shape.
        """
        if not self._partial or self._partial[-1][0] > 1:
            buffer = self._free.pop() if self._free else torch.empty_like(like)
            put(buffer, False)
            self._partial.append((1, buffer))
            return
        count, total = self._partial.pop()
        put(total, True)
        count *= 2
        while self._partial and self._partial[-1][0] == count:
            _, left = self._partial.pop()
            self._free.append(total)
            total = left.add_(total)
            count *= 2
        self._partial.append((count, total))

    def take(self, out: Tensor) -> None:
        """Write the sum to ``out`` and start again."""
        if self._partial:
            _, total = self._partial.pop()
            while self._partial:  # only where the number of leaves is no power of two
                _, left = self._partial.pop()
                self._free.append(total)
                total = left.add_(total)
            if total is not out:
                out.copy_(total)
            self._free.append(total)

    def use(self, buffer: Tensor) -> None:
        """Sum in this one too, the one that `take` will write to, for which there is no other use meanwhile."""
        if all(known is not buffer for known in self._free):
            self._free.append(buffer)

    def lend(self, like: Tensor) -> Tensor:
        """A buffer that is free until the next `add`."""
        if not self._free:
            self._free.append(torch.empty_like(like))
        return self._free[-1]

    def clear(self) -> None:
        """Forget what was added."""
        self._free += [buffer for _, buffer in self._partial]
        self._partial = []
