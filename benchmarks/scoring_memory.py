"""Peak memory of scoring above the model, at vocabulary 50,304 and any requested batch size.

    python benchmarks/scoring_memory.py

Each batch size runs in a process of its own; the peak is the kernel's own figure (ru_maxrss).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(batch: int, width: int, length: int, windows: int) -> None:
    import numpy as np
    import torch
    from isotone.evaluation.scoring import Scorer, Window
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=50_304,
            hidden_size=width,
            num_hidden_layers=4,
            num_attention_heads=8,
            intermediate_size=4 * width,
            max_position_embeddings=length,
        )
    )
    scorer = Scorer(model, 0, batch=batch)
    ids = np.random.default_rng(0).integers(50_304, size=(windows, length + 1))
    scorer.windows([Window(ids[0, :8], ids[0, 1:9])])  # libraries take their own memory on first use
    before = peak_mb()
    scorer.windows([Window(row[:-1], row[1:]) for row in ids])
    print(
        f"batch {batch or 'automatic'}: peak {peak_mb() - before:.0f} MB above the model and libraries ({before:.0f} MB)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=-1, help="measure one batch size in this process")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--windows", type=int, default=48)
    options = parser.parse_args()
    if options.batch >= 0:
        return measure(options.batch, options.width, options.length, options.windows)
    for batch in (0, 1, 8, 1024):
        shape = [f"--{name}={getattr(options, name)}" for name in ("width", "length", "windows")]
        subprocess.run([sys.executable, __file__, f"--batch={batch}", *shape], check=True)


if __name__ == "__main__":
    main()
