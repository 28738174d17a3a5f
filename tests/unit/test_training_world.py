"""Sums over leaves and who does what."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from isotone.config.training import Operation, Training
from isotone.errors import ConfigurationError, InputOutputError
from isotone.gpus import granted
from isotone.training.supervision.outcome import ResourceError
from isotone.training.world import TreeSum, World, join, leaf_range

from tests.unit.sharded import together


def tree(leaves: list[torch.Tensor]) -> torch.Tensor:
    """The sum by definition: halves of halves."""
    if len(leaves) == 1:
        return leaves[0]
    half = len(leaves) // 2
    return tree(leaves[:half]) + tree(leaves[half:])


def summed(leaves: list[torch.Tensor]) -> torch.Tensor:
    adder, out = TreeSum(), torch.empty_like(leaves[0])
    for leaf in leaves:
        adder.add(leaf)
    adder.take(out)
    return out


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16, 64])
def test_the_sum_is_a_binary_tree_bit_by_bit(count: int) -> None:
    leaves = [torch.randn(1000) * 10 ** (index % 5) for index in range(count)]
    assert torch.equal(summed(leaves), tree(leaves))
    if count >= 8:
        assert not torch.equal(summed(leaves), torch.stack(leaves).sum(0))  # control: order does matter
    for size in (2, 4):
        if count >= size:
            parts = [summed(leaves[rank * count // size : (rank + 1) * count // size]) for rank in range(size)]
            assert torch.equal(tree(parts), summed(leaves))  # what pairwise exchange computes


def test_other_counts_are_sums_too_and_buffers_are_reused() -> None:
    adder, out = TreeSum(), torch.zeros(10)
    for _ in range(3):
        leaves = [torch.randn(10) for _ in range(7)]
        for leaf in leaves:
            adder.add(leaf)
        adder.take(out)
        assert torch.allclose(out, torch.stack(leaves).sum(0), atol=1e-5)
    assert len(adder._free) <= 4
    adder.add(leaves[0])
    adder.clear()
    adder.add(leaves[1])
    adder.take(out)
    assert torch.equal(out, leaves[1])


def compare(world: World, names: list[str]) -> str:
    try:
        world.insist_equal({"torch": "2", "Isotone": names[world.rank]})
    except ConfigurationError as error:
        return str(error)
    return "equal"


def test_processes_with_other_software_refuse_all_together(tmp_path: Path) -> None:
    assert together(compare, 2, tmp_path / "same", ["a", "a"]) == ["equal", "equal"]
    said = together(compare, 2, tmp_path / "other", ["a", "b"])
    assert said[0] == said[1] and "same Isotone: process 0 has a, process 1 has b" in said[0]


def test_processes_that_do_not_meet_name_the_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two never comes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "")
    with pytest.raises(InputOutputError, match=r"network interface lo.*operation\.network_interface"):
        join(Operation(collective_minutes=1 / 60, network_interface="lo"))


@pytest.mark.parametrize(
    ("gpus", "nodes", "reduction", "processes"),
    [(0, 1, "exact", 1), (1, 1, "exact", 1), (3, 1, "exact", 2), (3, 1, "fast", 3), (8, 1, "exact", 4), (4, 2, "exact", 4),
     (3, 2, "fast", 4), (0, 2, "exact", 2)],
)  # fmt: skip
def test_processes_follow_the_gpus(gpus: int, nodes: int, reduction: str, processes: int) -> None:
    training = Training(global_batch=16, micro_batch_size=4, reduction=reduction)
    assert training.processes_on(gpus, nodes) == processes


def test_gpus_count_where_they_were_given() -> None:
    assert granted({"CUDA_VISIBLE_DEVICES": "0,2,3"}) == 3
    assert granted({"CUDA_VISIBLE_DEVICES": "0,-1,3"}) == 1  # as CUDA reads it
    assert granted({"CUDA_VISIBLE_DEVICES": ""}) == granted({"CUDA_VISIBLE_DEVICES": "-1"}) == 0
    assert granted({"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4"}) == 4
    assert granted({"SLURM_JOB_ID": "7"}) == 0  # a job without GPUs, on a node that has some
    assert granted({"SLURM_GPUS_ON_NODE": "4"}) == granted({}) == 0  # nobody said that they are this run's


def test_alone_everything_is_trivial() -> None:
    world = join(Operation())
    assert (world.rank, world.size, world.leads) == (0, 1, True)
    assert world.any(True, False) == [True, False]
    assert world.share({"a": 1}) == {"a": 1}
    values = torch.randn(5)
    before = values.clone()
    world.sum_exact(values, values)
    world.sum_fast(values, bucket=2, compress=True)
    world.copy_from_leader([values])
    assert torch.equal(world.table(values), before)
    world.leave()


@pytest.mark.parametrize(("reduction", "size", "leaves"), [("exact", 4, 16), ("fast", 3, 16), ("fast", 5, 7)])
def test_leaves_are_dealt_out_once_in_order(reduction: str, size: int, leaves: int) -> None:
    training = Training(global_batch=64, micro_batch_size=4, reduction=reduction)
    dealt = [leaf_range(World(torch.device("cpu"), rank, size), leaves, training) for rank in range(size)]
    assert [leaf for part in dealt for leaf in part] == list(range(leaves))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize(("reduction", "size"), [("exact", 3), ("exact", 32), ("fast", 17)])
def test_what_cannot_be_dealt_out_is_a_matter_of_resources(reduction: str, size: int) -> None:
    with pytest.raises(ResourceError, match="processes"):
        leaf_range(
            World(torch.device("cpu"), 0, size), 16, Training(global_batch=64, micro_batch_size=4, reduction=reduction)
        )
