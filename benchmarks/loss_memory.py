"""Peak extra memory of the vocabulary loss, forward and backward, over the plain computation's.

    python benchmarks/loss_memory.py [--vocabulary 50304] [--rows 1024] [--width 512]

Each way runs in a process of its own; its peak is the kernel's (VmHWM), less what the
process held before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from paired import hardware


def status(key: str) -> int:
    """One line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure(kind: str, rows: int, width: int, vocabulary: int) -> int:
    """Extra bytes at the peak."""
    import torch
    import torch.nn.functional as functional
    from isotone.models.loss import Head, summed_loss, token_nll

    torch.manual_seed(0)
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.randint(0, vocabulary, (rows,))
    small = torch.randn(8, 8, requires_grad=True)
    (small @ small).sum().backward()  # what torch sets up once
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    if kind == "plain":
        loss = functional.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum")
    elif kind == "summed_loss":
        loss = summed_loss(hidden, Head(weight), targets)
    else:
        loss = token_nll(hidden, Head(weight), targets).sum()
    loss.backward()
    return status("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=50_304)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--kind")
    options = parser.parse_args()
    if options.kind:
        print(measure(options.kind, options.rows, options.width, options.vocabulary))
        return
    gradient = 4 * options.vocabulary * options.width
    found = {}
    for kind in ("plain", "summed_loss", "token_nll"):
        command = [sys.executable, __file__, *sys.argv[1:], "--kind", kind]
        found[kind] = min(
            int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3)
        )
    print(f"vocabulary {options.vocabulary}, {options.rows} rows, width {options.width}   [{hardware()}]")
    print(f"  the weight's gradient itself, which every way makes: {gradient / 2**20:.0f} MiB")
    for kind, extra in found.items():
        print(f"  {kind:<12} {extra / 2**20:7.0f} MiB at the peak, {extra / found['plain']:.3f} of plain")
    print("  target: <= 0.333 of plain")


if __name__ == "__main__":
    main()
