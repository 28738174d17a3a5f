"""HotFlip: speed of `one_shot` against a plain loop, strength of `greedy` against `one_shot` and `query`.

    python benchmarks/hotflip.py [--documents 12]

The plain loop has the published study's form: one document at a time, loss and gradient
through the whole model, the best token of each position from a product with the
embedding, then the K best positions, then the loss of the result.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from attack_setting import documents_and_vocabulary
from isotone.attacks import hotflip, measure, query
from isotone.attacks.gradient import GradientProposals, Ranking
from isotone.attacks.objective import TextObjective
from isotone.evaluation.scoring import Scorer
from small_model import load


def plain_loop(model, documents, allowed, flips):
    """``[(flipped ids, clean loss, loss)]``; the published study's form."""
    embedding = model.get_input_embeddings().weight
    results = []
    for document in documents:
        inputs = torch.tensor([[0, *document.ids.tolist()]])
        clean = model(input_ids=inputs, labels=inputs).loss.item()
        embeds = model.get_input_embeddings()(inputs).detach().requires_grad_(True)
        model.zero_grad()
        model(inputs_embeds=embeds, labels=inputs).loss.backward()
        options = []
        for place in document.eligible:
            gradient = embeds.grad[0, place + 1]
            gains = (embedding.detach()[allowed] - embedding.detach()[inputs[0, place + 1]]) @ gradient
            gains[allowed == inputs[0, place + 1]] = -torch.inf
            gain, best = gains.max(0)
            options.append((gain.item(), int(place), int(allowed[best])))
        changed = inputs.clone()
        for _, place, token in sorted(options, key=lambda option: -option[0])[:flips]:
            changed[0, place + 1] = token
        with torch.no_grad():
            loss = model(input_ids=changed, labels=changed).loss.item()
        results.append((changed[0, 1:].numpy(), clean, loss))
    return results


def batched(objective, ranking, documents, flips):
    """The same with the library: gradients, flips, and the loss of the result."""
    found = []
    for first in range(0, len(documents), 8):
        traces = hotflip.one_shot(objective, documents[first : first + 8], ranking, flips=flips)
        ids = np.stack([trace.best[-1].ids for trace in traces])
        found += list(zip(ids, [trace.clean.mean() for trace in traces], objective.scores(ids).mean(-1), strict=True))
    return found


def speed(options) -> None:
    model, tokenizer, texts = load(8192, options.steps)
    test, _, vocabulary = documents_and_vocabulary(tokenizer, texts, options.documents, 8, 128)
    allowed = torch.from_numpy(vocabulary.allowed)
    model.requires_grad_(True)
    loops, ours = [], []
    for _ in range(options.rounds):
        model.requires_grad_(True)
        start = time.process_time()
        expected = plain_loop(model, test, allowed, 10)
        loops.append(time.process_time() - start)
        objective = TextObjective(Scorer(model, 0))
        ranking = Ranking(objective, vocabulary)
        start = time.process_time()
        found = batched(objective, ranking, test, 10)
        ours.append(time.process_time() - start)
    same = sum(np.array_equal(a[0], b[0]) for a, b in zip(expected, found, strict=True))
    close = max(abs(a[2] - b[2]) for a, b in zip(expected, found, strict=True))
    print(
        f"one_shot, vocabulary 8192, length 128: {len(test) / min(ours):.2f} documents/CPU s, plain loop {len(test) / min(loops):.2f}, "
        f"ratio {min(loops) / min(ours):.2f} (rounds {min(a / b for a, b in zip(loops, ours, strict=True)):.2f} to "
        f"{max(a / b for a, b in zip(loops, ours, strict=True)):.2f}); identical flips in {same} of {len(test)} documents, losses within {close:.1e}",
        flush=True,
    )


def strength(options) -> None:
    model, tokenizer, texts = load(2048, options.steps)
    test, _, vocabulary = documents_and_vocabulary(tokenizer, texts, options.documents, 32, 128)
    objective = TextObjective(Scorer(model, 0))

    def damages(traces, name):
        rows = measure.rows(objective, traces, attack="hotflip", variant=name, pieces=vocabulary.pieces)
        return np.array([row["J"] for row in rows]), traces[0].ledger

    def greedy(count, flips):
        propose = GradientProposals(objective, vocabulary, count)
        return damages(hotflip.greedy(objective, test, propose, flips=flips), "greedy")

    once, _ = damages(hotflip.one_shot(objective, test, Ranking(objective, vocabulary), flips=10), "one_shot")
    ten, _ = greedy(32, 10)
    print(
        f"10 flips: greedy M = 32 J {ten.mean():.3f}, one_shot {once.mean():.3f} nats, ratio {ten.mean() / once.mean():.2f}",
        flush=True,
    )
    eight, spent = greedy(8, 5)
    tokens = spent.forward_tokens + spent.backward_tokens
    proposals = query.RandomProposals(vocabulary, 2 * (8 + 2), 0)
    asked, other = damages(query.query(objective, test, proposals, flips=5), "query")
    print(
        f"5 flips: greedy M = 8 J {eight.mean():.3f} with {tokens} tokens a document, query {asked.mean():.3f} with "
        f"{other.forward_tokens}; greedy is ahead in {int((eight > asked).sum())} of {len(test)} documents",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="pretraining steps of the small models")
    options = parser.parse_args()
    torch.set_num_threads(1)
    speed(options)
    strength(options)


if __name__ == "__main__":
    main()
