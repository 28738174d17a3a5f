"""Universal triggers: gradient proposals against random coordinate ascent over a 100-token pool.

    python benchmarks/uat.py [--length 10] [--tokens 600000]

Both search on the same documents and are measured on the same others. The first
study's form draws a slot and a token of its pool and keeps what raises the loss of
the search documents; it may spend as many forward tokens as ours.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from attack_setting import documents_and_vocabulary
from isotone.attacks.objective import TextObjective
from isotone.attacks.trigger import Slots, TriggerObjective, search_trigger
from isotone.evaluation.scoring import Scorer
from isotone.evaluation.streams import stream
from small_model import load

POOL = 100


def coordinate_ascent(target: TriggerObjective, vocabulary, budget: int, seed: int) -> tuple[np.ndarray, list]:
    """The first study's form: a random slot, a random token of the pool, kept if the search documents lose more."""
    generator = stream(seed, "uat", "pool")
    pool = generator.choice(vocabulary.allowed, size=POOL, replace=False)
    everything = list(range(len(target.documents)))
    trigger = generator.choice(pool, size=target.length)
    best, start = float(target.rises(trigger[None], everything)[0]), target.ledger.forward_tokens
    curve = []
    while target.ledger.forward_tokens - start < budget:
        variant = trigger.copy()
        variant[generator.integers(target.length)] = generator.choice(pool)
        rise = float(target.rises(variant[None], everything)[0])
        if rise > best:
            trigger, best = variant, rise
        curve.append((target.ledger.forward_tokens - start, best))
    return trigger, curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=400, help="pretraining steps of the small model")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer, texts = load(2048, options.steps)
    objective = TextObjective(Scorer(model, 0))
    test, search, vocabulary = documents_and_vocabulary(tokenizer, texts, 32, 32, 128)
    held_out = TriggerObjective(objective, test, options.length)
    everything = list(range(len(test)))
    ours, theirs, shares = [], [], []
    for seed in range(options.seeds):
        target = TriggerObjective(objective, search, options.length)
        propose = Slots(objective.scorer.embedding.weight.detach(), vocabulary, options.candidates)
        tokens = objective.tokens(128 + options.length)
        iterations = options.tokens // (tokens * options.batch * (options.candidates + 2))
        began = time.process_time()
        found = search_trigger(
            target, propose, vocabulary, restart=0, iterations=iterations, batch=options.batch, seed=seed
        )
        seconds = time.process_time() - began
        budget = found["ledger"]["forward_tokens"] + found["ledger"]["backward_tokens"]
        theirs_trigger, _ = coordinate_ascent(
            TriggerObjective(objective, search, options.length), vocabulary, budget, seed
        )
        damage_theirs = float(held_out.rises(theirs_trigger[None], everything)[0])
        damage_ours = float(held_out.rises(np.array(found["trigger"])[None], everything)[0])
        # Every trigger that the search held, measured on the held-out documents.
        reached = next(
            (
                entry["forward_tokens"]
                for entry in found["curve"]
                if float(held_out.rises(np.array(entry["trigger"])[None], everything)[0]) >= damage_theirs
            ),
            budget,
        )
        ours.append(damage_ours)
        theirs.append(damage_theirs)
        shares.append(reached / budget)
        print(
            f"seed {seed}: ours {damage_ours:.4f}, pool {damage_theirs:.4f} nats, reached after {100 * reached / budget:.1f} % "
            f"of {budget} tokens ({seconds:.0f} CPU s)",
            flush=True,
        )
    print(
        f"held-out J ratio {np.mean(ours) / np.mean(theirs):.2f} (mean of {options.seeds} seeds; smallest "
        f"{min(a / b for a, b in zip(ours, theirs, strict=True)):.2f}); its final J after at most {100 * max(shares):.1f} % of the budget"
    )


if __name__ == "__main__":
    main()
