"""Each mistake of docs/footguns.md, wrong beside right, computed on a small model of the embedded corpus.

python benchmarks/footguns.py
"""

from __future__ import annotations

import argparse
import copy
import math

import numpy as np
import torch
from attack_setting import documents_and_vocabulary
from isotone.attacks import hotflip, measure, query
from isotone.attacks.gradient import GradientProposals, Ranking
from isotone.attacks.measure import rank_correlation
from isotone.attacks.objective import TextObjective
from isotone.attacks.proposals import with_saturation
from isotone.evaluation.perplexity import document, llamacpp, rolling, score, strided
from isotone.evaluation.scoring import Scorer, Window
from small_model import CONTEXT, load

TEMPERATURE = 1.45


def inverses() -> None:
    weights = torch.tensor([0.02, 1e-4, 1e-6, 1e-8, 100.0])
    naive = torch.nn.functional.softplus(torch.log(torch.exp(weights) - 1))
    exact = torch.nn.functional.softplus(weights + torch.log(-torch.expm1(-weights)))
    for weight, bad, good in zip(weights.tolist(), naive.tolist(), exact.tolist(), strict=True):
        print(
            f"softplus inverse at W = {weight:g}: naive gives {bad:.7g} ({100 * (bad / weight - 1):+.3f} %), exact {good:.7g}"
        )


def decay() -> None:
    """Decoupled weight decay on V instead of W: 10,000 steps of lr 1e-3, decay 0.1, no gradient."""
    for start in (0.02, 0.05):
        v = start + math.log(-math.expm1(-start))
        v *= (1 - 1e-3 * 0.1) ** 10_000
        print(
            f"weight decay on V: W = {start} becomes {math.log1p(math.exp(v)):.3f}; on W it becomes {start * (1 - 1e-4) ** 10_000:.4f}"
        )


def bf16() -> None:
    w = torch.full((100_000,), 0.02).mul_(torch.rand(100_000, generator=torch.Generator().manual_seed(0)) + 0.3)
    v = w + torch.log(-torch.expm1(-w))
    moved = {}
    for dtype in (torch.bfloat16, torch.float32):
        stored = v.to(dtype)
        moved[dtype] = float(((stored - 5e-5).to(dtype) != stored).float().mean())
    print(
        f"one step of 5e-5 on V: bf16 parameters move in {100 * moved[torch.bfloat16]:.1f} % of entries, fp32 in {100 * moved[torch.float32]:.1f} %"
    )


def perplexities(scorer, ids) -> None:
    names = [str(index) for index in range(len(ids))]

    def total(windows):
        found = score(scorer, names, windows)
        return sum(nll for _, nll in found) / sum(tokens for tokens, _ in found)

    protocols = {
        "rolling": [rolling(row, CONTEXT, 0) for row in ids],
        "strided": [strided(row, CONTEXT, CONTEXT // 2) for row in ids],
        "llamacpp": [llamacpp(row, CONTEXT, 0) for row in ids],
        "document": [document(row, 128, 0) for row in ids],
        "cut at the window": [[Window(np.array([0, *row[: CONTEXT - 1]]), row[:CONTEXT])] for row in ids],
    }
    for name, windows in protocols.items():
        print(f"protocol {name}: {math.exp(total(windows)):.2f} per token")
    found = [score(scorer, ["a"], [row])[0] for row in protocols["rolling"]]
    batches = [found[first : first + 4] for first in range(0, len(found), 4)]
    means = [sum(nll for _, nll in part) / sum(tokens for tokens, _ in part) for part in batches]
    ratio = total(protocols["rolling"])
    print(f"mean of batch means: {math.exp(np.mean(means)):.3f}, ratio of sums: {math.exp(ratio):.3f}")
    kept = [part[: len(part) // 2] if index == 0 else part for index, part in enumerate(batches)]
    flat = [entry for part in kept for entry in part]
    dropped = sum(nll for nll in [nll for _, nll in flat]) / sum(tokens for tokens, _ in flat)
    print(
        f"half of one batch dropped after an out-of-memory error: {math.exp(dropped):.3f} instead of {math.exp(ratio):.3f}"
    )


def temperature(model, test, vocabulary, pieces) -> None:
    tempered = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in tempered.base_model.final_layer_norm.parameters():
            parameter.div_(TEMPERATURE)
    rows = {}
    for name, target in (("model", model), ("model at T = 1.45", tempered)):
        objective = TextObjective(Scorer(target, 0))
        traces = hotflip.one_shot(objective, test, Ranking(objective, vocabulary), flips=10)
        rows[name] = measure.rows(objective, traces, attack="hotflip", variant="one_shot", pieces=pieces)
    for name, found in rows.items():
        success = np.mean([row["published_success"] for row in found])
        damage = np.mean([row["J"] for row in found])
        clean = np.mean([row["clean_nll"] for row in found])
        print(
            f"{name}: clean {clean:.3f} nats, published study's success {100 * success:.0f} %, J {damage:.3f}, "
            f"its 15 % threshold asks {0.15 * clean:.2f} nats"
        )
    own = [
        len(row["flips"]) * row["self"] / (row["tokens"] * row["total"]) for row in rows["model"] if row["total"] > 0
    ]
    print(f"share of the 'degradation' that is the cost of predicting the flipped tokens: {100 * np.mean(own):.0f} %")


def believing(model, test, vocabulary, pieces) -> None:
    objective = TextObjective(Scorer(model, 0))
    plain = hotflip.one_shot(objective, test, Ranking(objective, vocabulary), flips=5)
    rows = measure.rows(objective, plain, attack="hotflip", variant="one_shot", pieces=pieces)
    predicted = np.mean([sum(row["predicted"]) for row in rows])
    print(
        f"one gradient, nothing re-scored: predicts J {predicted:.2f} nats, causes {np.mean([row['J'] for row in rows]):.2f}"
    )
    found = {}
    for each in (2, 8):
        propose = GradientProposals(objective, vocabulary, 8, per_position=each)
        traces = hotflip.greedy(objective, test, propose, flips=5)
        found[each] = np.mean([trace.best[-1].damage for trace in traces])
    print(
        f"exact re-scoring of 8 proposals a step: J {found[2]:.3f}, with all 8 allowed at one position {found[8]:.3f}"
    )
    asked = query.query(objective, test, query.RandomProposals(vocabulary, 20, 0), flips=5)
    print(f"query with twice the forward passes: J {np.mean([trace.best[-1].damage for trace in asked]):.3f}")
    saturation(objective, test[:4], vocabulary)


def saturation(objective, test, vocabulary) -> None:
    """Rank correlation of predicted and exact gain over random flips, with and without the credit."""
    generator, ranking, pairs = np.random.default_rng(0), Ranking(objective, vocabulary), {"plain": [], "credited": []}
    for text in test:
        clean, grad = objective.slopes(text.ids[None], np.ones((1, len(text.ids))))
        clean, grad = clean[0], grad[0].numpy()
        places = generator.choice(text.eligible, 25, replace=False)
        tokens = generator.choice(vocabulary.allowed, 16, replace=False)
        embedding = ranking.embedding_VD.numpy()
        gain = np.stack([(embedding[tokens] - embedding[text.ids[place]]) @ grad[place] for place in places])
        kept, surprise = np.ones(len(clean), bool), vocabulary.unigram_nll()[text.ids]
        credited = with_saturation(gain, places, clean, clean, kept, surprise)
        rows = np.zeros(gain.size, int)
        nll = objective.flips(text.ids[None], clean[None], rows, np.repeat(places, 16), np.tile(tokens, 25))
        rise = nll - clean
        rise[np.arange(gain.size), np.repeat(places, 16)] = 0
        for name, predicted in (("plain", gain), ("credited", credited)):
            pairs[name].append(rank_correlation(list(zip(predicted.ravel(), rise.sum(1), strict=True))))
    print(
        f"rank correlation of predicted and exact gain over random flips: first order {np.mean(pairs['plain']):.2f}, "
        f"with credit for saturated losses {np.mean(pairs['credited']):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--steps", type=int, default=400, help="pretraining steps of the small model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    inverses()
    decay()
    bf16()
    model, tokenizer, texts = load(2048, options.steps)
    ids = [np.array(tokenizer.encode(text, add_special_tokens=False)) for text in texts[: options.documents]]
    perplexities(Scorer(model, 0), ids)
    test, _, vocabulary = documents_and_vocabulary(tokenizer, texts, options.documents, 32, 128)
    temperature(model, test, vocabulary, vocabulary.pieces)
    believing(model, test, vocabulary, vocabulary.pieces)


if __name__ == "__main__":
    main()
