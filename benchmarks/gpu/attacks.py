"""One attack step of the library against one of a plain loop that does what nanoGCG does.

The plain loop is written here, since the package may be missing: the gradient of a one-hot matrix through the whole
model, the 256 best tokens of each position, 512 uniform draws of one replacement, the loss of each changed text by a
whole forward pass in batches. Both in fp32 on the same model and text; every token of the text may change.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.gpu.record import Plan, Record
from benchmarks.gpu.shapes import large, network, stream
from benchmarks.gpu.timing import seconds

TOP, DRAWS = 256, 512


def plain_step(model: Any, ids: torch.Tensor, batch: int, draws: int, top: int) -> torch.Tensor:
    """NLL of the text under each draw, `[draws]`."""
    weight = model.get_input_embeddings().weight
    inputs = torch.cat([ids.new_zeros(1), ids])[None]
    one_hot = torch.nn.functional.one_hot(inputs, len(weight)).to(weight.dtype).requires_grad_()
    logits = model(inputs_embeds=one_hot @ weight).logits
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], inputs[0, 1:])
    (gradient,) = torch.autograd.grad(-loss, one_hot)
    best = (-gradient[0, 1:]).topk(top, dim=-1).indices
    places = torch.randint(0, len(ids) - 1, (draws,), device=ids.device)
    tokens = best[places, torch.randint(0, top, (draws,), device=ids.device)]
    changed = ids.repeat(draws, 1)
    changed[torch.arange(draws, device=ids.device), places] = tokens
    changed = torch.cat([changed.new_zeros(draws, 1), changed], dim=1)
    losses = []
    with torch.no_grad():
        for first in range(0, draws, batch):
            part = changed[first : first + batch]
            logits = model(part).logits[:, :-1]
            nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="none")
            losses.append(nll.view(len(part), -1).mean(-1))
            del logits, nll
    return torch.cat(losses)


def our_step(objective: Any, ranking: Any, ids: np.ndarray, draws: int, top: int) -> np.ndarray:
    """The same with the library: slopes, ranking, exact losses of the draws."""
    places = np.arange(1, len(ids) - 1)
    nll, gradient = objective.slopes(ids[None], np.ones((1, len(ids))))
    choice, _ = ranking.best(ids, gradient[0], places, top)
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(len(places), size=draws), rng.integers(top, size=draws)
    tokens = ranking.vocabulary.allowed[choice[rows, columns]]
    made: np.ndarray = objective.flips(ids[None], nll, np.zeros(draws, np.int64), places[rows], tokens)
    return made


def run(record: Record, plan: Plan) -> None:
    """Texts of 256 and 1024 tokens."""
    from isotone.attacks.hotflip import Ranking
    from isotone.attacks.objective import TextObjective
    from isotone.attacks.vocabulary import Vocabulary
    from isotone.evaluation.scoring import Scorer

    torch.backends.cuda.matmul.allow_tf32 = False
    shape = large(plan)
    size = shape["vocab_size"]
    model = network(shape, 2048, plan.device)
    objective = TextObjective(Scorer(model, 0))
    ranking = Ranking(objective, Vocabulary(np.arange(1, size), [""] * size, np.ones(size, np.int64)))
    draws, top = (16, 8) if plan.tiny else (DRAWS, TOP)
    for length in (32,) if plan.tiny else (256, 1024):
        ids = stream(length, size, 7)
        text = torch.from_numpy(ids).to(plan.device)
        our_step(objective, ranking, ids, 8, top)
        parts = {
            "slopes": lambda i=ids: objective.slopes(i[None], np.ones((1, len(i)))),
            "step": lambda i=ids: our_step(objective, ranking, i, draws, top),
        }
        ours = {name: seconds(part, plan.device, 1 if length > 500 else 2) for name, part in parts.items()}
        _, gradient = objective.slopes(ids[None], np.ones((1, length)))
        ours["ranking"] = seconds(
            lambda i=ids, g=gradient: ranking.best(i, g[0], np.arange(1, len(i) - 1), top), plan.device
        )
        theirs = {}
        for batch in (8,) if plan.tiny else (64, 256) if length < 500 else (32, 64):
            try:
                plain_step(model, text, batch, batch, top)
                theirs[batch] = seconds(lambda t=text, b=batch: plain_step(model, t, b, draws, top), plan.device)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                record.note(f"plain loop: batch {batch} does not fit")
        best = min(theirs, key=lambda batch: theirs[batch])
        ratio = theirs[best] / ours["step"]
        record.row(
            f"one step, {length} tokens, {draws} candidates, fp32",
            f"{ours['step']:.2f} s (gradient {ours['slopes']:.3f}, ranking {ours['ranking']:.3f}), plain loop {theirs[best]:.2f} s "
            f"at its best batch ({best}): ratio {ratio:.2f}",
            "2 times" if not plan.tiny else "",
            ratio >= 2 if not plan.tiny else None,
        )
        rows, places = np.zeros(8, np.int64), np.linspace(1, length - 2, 8).astype(np.int64)
        tokens = np.arange(1, 9)
        known = objective.scores(ids[None])
        changed = np.repeat(ids[None], 8, 0)
        changed[np.arange(8), places] = tokens
        whole, flipped = objective.scores(changed), objective.flips(ids[None], known, rows, places, tokens)
        difference = float(np.abs(whole - flipped).max())
        record.row(
            f"losses behind a cache less whole passes, {length} tokens",
            f"{difference:.1e} nats",
            "1e-3",
            difference < 1e-3,
        )
