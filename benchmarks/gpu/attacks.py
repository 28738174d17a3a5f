"""One attack step of the library against one of a plain loop that does what nanoGCG does.

The plain loop is written here, since the package may be missing: the gradient of a one-hot matrix through the whole
model, the 256 best tokens of each position, 512 uniform draws of one replacement, the loss of each changed text by a
whole forward pass in batches. Both in fp32 on the same weights and text, the plain loop without TF32, the scorer with its
products of three TF32 ones; every token of the text may change.
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


def measure(
    record: Record, plan: Plan, model: Any, ranking: Any, length: int, draws: int, top: int, batch: int
) -> None:
    """A step on one text of ``length`` tokens; ``batch`` texts a forward pass in the plain loop."""
    objective = ranking.objective
    ids = stream(length, len(ranking.vocabulary.pieces), 7)
    text = torch.from_numpy(ids).to(plan.device)
    our_step(objective, ranking, ids, 8, top)
    ours = seconds(lambda: our_step(objective, ranking, ids, draws, top), plan.device)
    slopes = seconds(lambda: objective.slopes(ids[None], np.ones((1, length))), plan.device)
    _, gradient = objective.slopes(ids[None], np.ones((1, length)))
    places = np.arange(1, length - 1)
    ranked = seconds(lambda: ranking.best(ids, gradient[0], places, top), plan.device)
    plain_step(model, text, batch, min(batch, 16), top)
    theirs = seconds(lambda: plain_step(model, text, batch, draws, top), plan.device)
    record.row(
        f"one step, {length} tokens, {draws} candidates, fp32",
        f"{ours:.2f} s (gradient {slopes:.3f}, ranking {ranked:.3f}), plain loop {theirs:.2f} s at batch {batch}: "
        f"ratio {theirs / ours:.2f}",
        "" if plan.tiny else "2 times",
        None if plan.tiny else theirs / ours >= 2,
    )
    spots = np.linspace(1, length - 2, 8).astype(np.int64)
    changed = np.repeat(ids[None], 8, 0)
    changed[np.arange(8), spots] = np.arange(1, 9)
    known, whole = objective.scores(ids[None]), objective.scores(changed)
    flipped = objective.flips(ids[None], known, np.zeros(8, np.int64), spots, np.arange(1, 9))
    difference = float(np.abs(whole - flipped).max())
    record.row(
        f"losses behind a cache less whole passes, {length} tokens", f"{difference:.1e} nats", "1e-3", difference < 1e-3
    )


def run(record: Record, plan: Plan) -> None:
    """Texts of 256 and 1024 tokens."""
    from isotone.attacks.gradient import Ranking
    from isotone.attacks.objective import TextObjective
    from isotone.attacks.vocabulary import Vocabulary
    from isotone.evaluation.scoring import Scorer

    torch.backends.cuda.matmul.allow_tf32 = False
    shape = large(plan)
    size = shape["vocab_size"]
    model = network(shape, 2048, plan.device)
    objective = TextObjective(Scorer(network(shape, 2048, plan.device), 0))
    ranking = Ranking(objective, Vocabulary(np.arange(1, size), [""] * size, np.ones(size, np.int64)))
    for sizes in [(32, 16, 8, 8)] if plan.tiny else [(256, DRAWS, TOP, 64), (1024, 64, TOP, 16)]:
        measure(record, plan, model, ranking, *sizes)
