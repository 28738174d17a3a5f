"""The card, and the two ceilings that everything else is measured against."""

from __future__ import annotations

import importlib.util
import sys

import torch

from benchmarks.gpu.record import Plan, Record
from benchmarks.gpu.timing import peak, seconds


def product_rate(size: int, dtype: torch.dtype, device: str) -> float:
    """TFLOP/s of a square matrix product on random data."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    left @ right
    repeats = 10
    spent = seconds(lambda: [left @ right for _ in range(repeats)], device, 2)
    return 2 * size**3 * repeats / spent / 1e12


def run(record: Record, plan: Plan) -> None:
    """Name the machine and measure it."""
    import transformers

    name, _ = peak(plan.device)
    record.row(
        "machine",
        f"{name}, Python {sys.version.split()[0]}, torch {torch.__version__}, transformers {transformers.__version__}",
    )
    if plan.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        record.row("memory", f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} free")
    known = ("datasets", "lm_eval", "nanogcg", "jsonschema", "pynvml", "pytest", "hypothesis", "triton")
    record.row("packages", ", ".join(f"{part} {'yes' if importlib.util.find_spec(part) else 'no'}" for part in known))
    size = 256 if plan.tiny else 8192
    torch.backends.cuda.matmul.allow_tf32 = False
    record.row("matrix product, bf16", f"{product_rate(size, torch.bfloat16, plan.device):.1f} TFLOP/s")
    record.row("matrix product, fp32", f"{product_rate(size // 2, torch.float32, plan.device):.1f} TFLOP/s")
    torch.backends.cuda.matmul.allow_tf32 = True
    record.row("matrix product, TF32", f"{product_rate(size, torch.float32, plan.device):.1f} TFLOP/s")
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.randn(1 << (16 if plan.tiny else 30), device=plan.device)
    target = torch.empty_like(source)
    spent = seconds(lambda: target.copy_(source), plan.device, 3)
    record.row("copy on the device", f"{2 * source.nbytes / spent / 1e12:.2f} TB/s, read and written")
