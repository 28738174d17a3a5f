"""Universal triggers: gradient proposals against random coordinate ascent over a 100-token pool.

    python benchmarks/uat.py [--length 10] [--tokens 600000] [--vocabulary 8192]

Both search on the same documents, may read equally many tokens, and are measured on the
same held-out documents. The published study goes from slot to slot, tries 20 random tokens of
its pool in each, and keeps the one with which the search documents lose most; its pool is
the 100 tokens from number 1000 on. Beside it stand two stronger forms: a pool of 100 tokens
drawn from the whole vocabulary, and the same with one token tried in each slot at a time.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict

import numpy as np
import torch
from attack_setting import documents_and_vocabulary
from isotone.attacks.objective import TextObjective
from isotone.attacks.trigger import Slots, TriggerObjective, search_trigger
from isotone.attacks.vocabulary import Vocabulary
from isotone.evaluation.scoring import Scorer
from isotone.evaluation.streams import stream
from small_model import load

POOL, DRAWS, FIRST = 100, 20, 1000


def coordinate_ascent(target: TriggerObjective, pool: np.ndarray, draws: int, budget: int, seed: int) -> np.ndarray:
    """Slot after slot the best of some random tokens of the pool, if better than what stands there."""
    generator = stream(seed, "uat", "pool")
    everything = list(range(len(target.documents)))
    trigger = generator.choice(pool, size=target.length)
    best, start = float(target.rises(trigger[None], everything)[0]), target.ledger.forward_tokens
    slots = itertools.cycle(range(target.length))
    moves = ((slot, token) for slot in slots for token in generator.choice(pool, size=draws))
    while target.ledger.forward_tokens - start < budget:
        slot, token = next(moves)
        variant = trigger.copy()
        variant[slot] = token
        rise = float(target.rises(variant[None], everything)[0])
        if rise > best:
            trigger, best = variant, rise
    return trigger


def forms(vocabulary: Vocabulary, seed: int) -> dict[str, tuple[np.ndarray, int]]:
    """``{name: (pool, tokens tried in a slot at a time)}``; the published study's tokens are common ones."""
    everywhere = stream(seed, "uat", "tokens").choice(vocabulary.allowed, size=POOL, replace=False)
    return {
        "published study's form": (vocabulary.allowed[vocabulary.allowed >= FIRST][:POOL], DRAWS),
        "pool of all tokens": (everywhere, DRAWS),
        "pool of all tokens, one draw a slot": (everywhere, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=400, help="pretraining steps of the small model")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer, texts = load(options.vocabulary, options.steps)
    objective = TextObjective(Scorer(model, 0))
    test, search, vocabulary = documents_and_vocabulary(tokenizer, texts, 32, 32, 128)
    held_out = TriggerObjective(objective, test, options.length)

    def damage(trigger: list[int] | np.ndarray) -> float:
        return float(held_out.rises(np.array(trigger)[None], range(len(test)))[0])

    ours, theirs, shares = [], defaultdict(list), defaultdict(list)
    for seed in range(options.seeds):
        target = TriggerObjective(objective, search, options.length)
        propose = Slots(objective.scorer.embedding.weight.detach(), vocabulary, options.candidates)
        tokens = objective.tokens(128 + options.length)
        iterations = options.tokens // (tokens * options.batch * (options.candidates + 2))
        found = search_trigger(
            target, propose, vocabulary, restart=0, iterations=iterations, batch=options.batch, seed=seed
        )
        budget = found["ledger"]["forward_tokens"] + found["ledger"]["backward_tokens"]
        ours.append(damage(found["trigger"]))
        print(f"seed {seed}: ours {ours[-1]:.4f} nats on held-out documents, {budget} tokens", flush=True)
        # Every trigger that the search held, measured on the held-out documents.
        held = [(entry["forward_tokens"], damage(entry["trigger"])) for entry in found["curve"]]
        for name, (pool, draws) in forms(vocabulary, seed).items():
            target = TriggerObjective(objective, search, options.length)
            reached = damage(coordinate_ascent(target, pool, draws, budget, seed))
            share = next((spent for spent, rise in held if rise >= reached), budget) / budget
            theirs[name].append(reached)
            shares[name].append(share)
            print(f"  {name}: {reached:.4f} nats, which ours has after {100 * share:.1f} % of the tokens", flush=True)
    for name, damages in theirs.items():
        ratios = [a / b for a, b in zip(ours, damages, strict=True)]
        print(
            f"{name}: held-out J ratio {np.mean(ours) / np.mean(damages):.2f} (mean of {options.seeds} seeds; smallest "
            f"{min(ratios):.2f}); its final J after at most {100 * max(shares[name]):.1f} % of the budget"
        )


if __name__ == "__main__":
    main()
