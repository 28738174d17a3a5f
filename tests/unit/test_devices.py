"""Which device a program takes, and what it says where it cannot have it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from isotone import devices, environment, gpus
from isotone.errors import CONFIGURATION, ConfigurationError


@pytest.mark.parametrize(
    ("variables", "held"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, "CUDA_VISIBLE_DEVICES=0,1"),
        ({"CUDA_VISIBLE_DEVICES": ""}, ""),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ""),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ""),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "3"}, "SLURM_JOB_GPUS=3"),
        ({"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "0"}, ""),
        ({"SLURM_JOB_ID": "7"}, ""),
        ({}, "nvidia0"),
    ],
)
def test_a_job_knows_whether_it_holds_a_gpu(variables: dict[str, str], held: str, tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()  # /dev shows the GPUs of other jobs too
    (tmp_path / "nvidiactl").touch()
    found = gpus.held_gpus(variables, tmp_path)
    assert found.endswith(held) and bool(found) == bool(held)


def test_a_machine_without_gpus_holds_none(tmp_path: Path) -> None:
    assert gpus.held_gpus({}, tmp_path) == ""


def test_a_gpu_that_torch_cannot_use_is_no_reason_to_train_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "driver_version", lambda: "driver 535.1, which runs CUDA up to 12.2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigurationError, match="CUDA_VISIBLE_DEVICES=0") as caught:
        devices.choose()
    assert caught.value.code == CONFIGURATION
    assert torch.__version__ in str(caught.value) and "driver 535.1" in str(caught.value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.choose() == torch.device("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    with pytest.raises(ConfigurationError, match="4 processes were started on this node, but the job holds 2 GPUs"):
        devices.choose(3, 4)
    assert devices.choose(1, 2) == torch.device("cuda", 1)


@pytest.fixture
def restored() -> object:
    strict = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(strict)


def test_determinism_is_strict_and_its_record_is_what_torch_says(
    restored: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    environment.deterministic(0, torch.get_num_threads())
    assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert devices.kernels_used(cpu) == devices.kernels_used(cuda) == "deterministic"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    assert devices.kernels_used(cuda) == "any"  # cuBLAS may then use any workspace
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert devices.kernels_used(cpu) == "any"
    devices.choose_kernels(False)
    assert devices.kernels_used(cpu) == "any"


def test_sizes_of_an_accelerator_are_not_those_of_a_cache() -> None:
    cpu, other = torch.device("cpu"), torch.device("meta")
    assert not devices.accelerated(cpu) and devices.accelerated(other)
    assert devices.table_rows(50_304, cpu) == 83 and devices.table_rows(50_304, other) == 5336
    assert devices.activation_bytes(cpu) == 64 << 20 and devices.activation_bytes(other) == 4 << 30
