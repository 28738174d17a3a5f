"""Documents a second of the scorer against a plain loop that does what lm-evaluation-harness does.

The plain loop is written here, since the harness may be missing: windows sorted by length, a fixed batch, padded on
the right, log_softmax of all logits, the targets picked (`loglikelihood_rolling`, `_loglikelihood_tokens`). Both in
fp32 (no TF32), on the same weights and card; the plain loop gets the best of several batches. The scorer makes its fp32
products of three TF32 ones, which the plain loop does not: the differences of the sums show what that changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.gpu.record import Plan, Record
from benchmarks.gpu.shapes import large, network, stream
from benchmarks.gpu.timing import seconds


def plain_rolling(model: Any, windows: list[Any], batch: int, device: str) -> np.ndarray:
    """Summed NLL of each window's targets, nats."""
    order = sorted(range(len(windows)), key=lambda index: -len(windows[index].inputs))
    sums = np.zeros(len(windows))
    with torch.no_grad():
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch]
            longest = max(len(windows[index].inputs) for index in chosen)
            inputs = torch.stack(
                [
                    torch.nn.functional.pad(torch.from_numpy(windows[i].inputs), (0, longest - len(windows[i].inputs)))
                    for i in chosen
                ]
            ).to(device)
            scores = torch.nn.functional.log_softmax(model(inputs).logits, dim=-1, dtype=torch.float32)
            for row, index in enumerate(chosen):
                window = windows[index]
                end = len(window.inputs)
                part = scores[row, end - len(window.targets) : end]
                targets = torch.from_numpy(window.targets).to(device)
                sums[index] = -float(part.gather(1, targets[:, None]).sum())
    return sums


def difference_to_fp64(plan: Plan, shape: dict[str, int]) -> tuple[str, bool]:
    """Mean distance of a text's losses, by the scorer and by the plain model, from those of the model in fp64."""
    from isotone.evaluation.scoring import Scorer

    few = {**shape, "num_hidden_layers": 4 if not plan.tiny else 2}
    ids = torch.from_numpy(stream(256, few["vocab_size"], 3))[None]
    ours = Scorer(network(few, 256, plan.device), 0).texts(ids)[0].double()
    inputs, targets = torch.cat([ids.new_zeros(1, 1), ids[:, :-1]], 1).to(plan.device), ids[0].to(plan.device)
    losses = []
    for dtype in (torch.float32, torch.float64):
        logits = network(few, 256, plan.device).to(dtype)(inputs).logits[0].detach()
        losses.append(torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none").cpu())
    plain, exact = losses
    errors = [float((found - exact).abs().mean()) for found in (ours, plain)]
    return f"scorer {errors[0]:.1e}, plain {errors[1]:.1e} nats", errors[0] < 2e-5


def run(record: Record, plan: Plan) -> None:
    """Two kinds of documents: long ones of many windows, and short ones of many lengths."""
    from isotone.evaluation.perplexity import rolling
    from isotone.evaluation.scoring import Scorer

    torch.backends.cuda.matmul.allow_tf32 = False
    shape, length = large(plan), 64 if plan.tiny else 2048
    model = network(shape, length, plan.device)
    scorer = Scorer(network(shape, length, plan.device), 0)  # its own copy: a scorer changes how a model multiplies
    record.row("tokens of a pass", scorer.pass_tokens)
    rng = np.random.default_rng(0)
    scale = 30 if plan.tiny else 1
    kinds = {
        "long documents": [int(n) for n in rng.integers(3000 // scale, 9000 // scale, 6)],
        "short documents": [int(n) for n in rng.lognormal(5.3, 0.8, 160).clip(16, 2000) // scale + 8],
    }
    batches = (1, 8) if plan.tiny else (4, 16)
    exact = difference_to_fp64(plan, shape)
    record.row("losses in fp32 against fp64", exact[0], "2e-5 nats a token on average", exact[1])
    for name, lengths in kinds.items():
        texts = [stream(count, shape["vocab_size"], seed) for seed, count in enumerate(lengths)]
        windows = [window for ids in texts for window in rolling(ids, length, 0)]
        scorer.windows(windows[:2])
        found: list[np.ndarray] = []
        ours = seconds(lambda w=windows, f=found: f.append(scorer.windows(w)), plan.device)
        theirs, expected = {}, np.zeros(0)
        for batch in batches:
            kept: list[np.ndarray] = []
            try:
                plain_rolling(model, windows[:2], batch, plan.device)
                theirs[batch] = seconds(
                    lambda w=windows, k=kept, b=batch: k.append(plain_rolling(model, w, b, plan.device)), plan.device
                )
                expected = kept[0]
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                record.note(f"plain loop: batch {batch} does not fit")
        best = min(theirs, key=lambda batch: theirs[batch])
        ratio, tokens = theirs[best] / ours, sum(lengths)
        difference = float(np.abs(found[0] / expected - 1).max())
        record.row(
            f"{name} ({len(lengths)}, {tokens} tokens), fp32",
            f"{tokens / ours:,.0f} tokens/s, plain loop {tokens / theirs[best]:,.0f} at its best batch ({best}): ratio {ratio:.2f}",
            "1.5 times" if not plan.tiny else "",
            ratio >= 1.5 if not plan.tiny else None,
        )
        record.row(f"{name}: difference of the sums", f"{difference:.1e} relative", "1e-5", difference < 1e-5)
