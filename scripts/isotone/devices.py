"""The device that a program computes on, and everything that depends on its kind: nothing else asks for it.

What holds for any accelerator is decided by `accelerated`, so that an emulated device walks the same paths;
what only CUDA's own interface can tell stands in the functions below that name ``cuda``.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import torch
from torch import Tensor

from isotone.errors import ConfigurationError
from isotone.gpus import held_gpus

GIB = 2**30
HEAD_ROWS = 4096  # rows whose logits an accelerator holds at once; larger ones save nothing
HEAD_ELEMENTS = 1 << 28  # logits at once: 1 GiB in fp32
CPU_HEAD_ROWS, CPU_HEAD_ELEMENTS = 1024, 1 << 22  # 16 MiB: near the caches
CPU_ACTIVATIONS = 64 << 20  # bytes of hidden states of one scoring pass
WORKSPACES = (":4096:8", ":16:8")  # with one of these cuBLAS is deterministic


def accelerated(device: torch.device) -> bool:
    """Whether kernels are launched and waited for, and reading a value back costs time."""
    return device.type != "cpu"


# Which one


def driver_version() -> str:
    """The NVIDIA driver in words, and the newest CUDA that it runs."""
    try:
        import pynvml

        pynvml.nvmlInit()
        driver, cuda = pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlSystemGetCudaDriverVersion()
        return f"driver {driver}, which runs CUDA up to {cuda // 1000}.{cuda % 1000 // 10}"
    except Exception:  # no package, no library, no driver
        pass
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0].strip()
    except OSError:
        return "no NVIDIA driver that could be asked"


def choose(local_rank: int = 0, processes: int = 1) -> torch.device:
    """The device of this process: its GPU, or the CPU where the job holds none.

    Args:
        local_rank: which of the node's processes this is.
        processes: how many of them there are.

    Raises:
        ConfigurationError: if the job holds a GPU that torch cannot use, or if there are more processes than GPUs.
    """
    if not torch.cuda.is_available():
        if reason := held_gpus():
            built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
            raise ConfigurationError(
                f"This job holds a GPU ({reason}), but torch cannot use it: torch {torch.__version__} was built {built}, and "
                f"the machine has {driver_version()}. Install a torch that fits the driver (pytorch.org, "
                "requirements.lock), or a newer driver; to compute on the CPU on purpose, set CUDA_VISIBLE_DEVICES to nothing."
            )
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if processes > count:
        raise ConfigurationError(
            f"{processes} processes were started on this node, but the job holds {count} GPU{'s' if count != 1 else ''}. Start at "
            "most one process per GPU (the training rule's resource processes), or ask for more GPUs."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


# Arithmetic


def choose_kernels(deterministic: bool) -> None:
    """Refuse (or allow) kernels whose result depends on scheduling; fp32 stays fp32, and sums of bf16 products fp32.

    Without ``warn_only``: with it the backward passes of attention would take their faster form that is
    not deterministic, and only say so.
    """
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # costs a pass over each
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = False


def kernels_used(device: torch.device) -> str:
    """``deterministic`` if torch, as it stands now, gives the same bits each time on this device; else ``any``."""
    strict = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    fixed = device.type != "cuda" or os.environ.get("CUBLAS_WORKSPACE_CONFIG") in WORKSPACES
    return "deterministic" if strict and fixed else "any"


def choose_precision(wanted: str, device: torch.device) -> str:
    """The arithmetic of ``precision: auto`` on this device; anything else stays."""
    if wanted != "auto":
        return wanted
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def splits_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether fp32 products are made of TF32 ones (`isotone.models.split_product`): tensor cores know it from 8.0 on."""
    return device.type == "cuda" and dtype == torch.float32 and torch.cuda.get_device_capability(device) >= (8, 0)


@functools.cache
def _returns_fp32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a product of this type can be had as it was summed, in fp32."""
    one = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        return torch.mm(one, one, out_dtype=torch.float32).dtype == torch.float32
    except (RuntimeError, TypeError, NotImplementedError):
        return False


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` of two matrices in fp32; computed in their own type, and on CUDA not rounded to it."""
    if left.dtype != torch.float32 and left.device.type == "cuda" and _returns_fp32(left.device, left.dtype):
        return torch.mm(left, right, out_dtype=torch.float32)
    return (left @ right).float()


# Sizes


def head_rows(vocabulary: int, device: torch.device) -> int:
    """Rows of hidden states whose logits exist at once; the same for every device of a kind."""
    rows, elements = (HEAD_ROWS, HEAD_ELEMENTS) if accelerated(device) else (CPU_HEAD_ROWS, CPU_HEAD_ELEMENTS)
    return max(1, min(rows, elements // vocabulary))


def table_rows(columns: int, device: torch.device) -> int:
    """Rows of a table of positions by tokens that exist at once."""
    return max(1, (HEAD_ELEMENTS if accelerated(device) else CPU_HEAD_ELEMENTS) // columns)


def activation_bytes(device: torch.device) -> int:
    """Bytes that hidden states of one scoring pass may take.

    A sixteenth of the device, not of what happens to be free: a repeated run makes the same batches.
    """
    if device.type == "cuda":
        return min(4 * GIB, total_memory(device) // 16)
    return 4 * GIB if accelerated(device) else CPU_ACTIVATIONS


def total_memory(device: torch.device) -> int:
    """Bytes of a GPU."""
    return int(torch.cuda.get_device_properties(device).total_memory)


def release(device: torch.device | None = None) -> None:
    """Give unused memory back to the device, after running out of it."""
    if (device is None or device.type == "cuda") and torch.cuda.is_available():
        torch.cuda.empty_cache()
