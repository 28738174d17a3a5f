"""How strong the search is: J against forward passes, beside plain GCG and nanoGCG's loop, model by model.

    python benchmarks/attack_strength.py --documents results/kjv/data/attack --models results/kjv/runs/*/seed-42/model

The two yardsticks stand here in full and use nothing of Isotone's attacks: plain forward passes of
transformers, no cache, logits of whole batches. *GCG* draws `width` substitutions from the 64 tokens
that the gradient likes best at each position, at any position until K have changed and then at those,
and keeps the best draw if it is better (Zou et al. 2023, for untargeted loss). *nanoGCG's loop* (its
defaults: top-k 256, one replacement, the best draw of every step is taken even if it is worse, the
best text of the run is kept) works on K fixed positions, drawn at random. All maximise the mean rise
of the loss of unchanged tokens (J), five flips, the same documents and allowed tokens.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from isotone.attacks import hotflip
from isotone.attacks.documents import read_manifest
from isotone.attacks.gradient import GradientProposals
from isotone.attacks.objective import TextObjective
from isotone.evaluation.scoring import Scorer
from isotone.models import load_model, load_tokenizer, prefix_token

FLIPS, SEED = 5, 0


class Plain:
    """A model, one document, and J by plain forward passes."""

    def __init__(self, model, prefix: int, document, allowed: np.ndarray) -> None:
        self.model, self.prefix, self.clean = model, prefix, torch.from_numpy(document.ids)
        self.eligible, self.allowed = document.eligible, torch.from_numpy(allowed)
        self.embedding = model.get_input_embeddings().weight.detach()
        self.passes = 0
        with torch.no_grad():
            self.before = self.losses(
                self.model.get_input_embeddings()(self.inputs(self.clean[None])), self.clean[None]
            )

    def inputs(self, ids):
        return torch.cat([ids.new_full((len(ids), 1), self.prefix), ids], dim=1)

    def losses(self, vectors, ids):
        logits = self.model(inputs_embeds=vectors).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids, reduction="none")

    def damage(self, losses, ids):
        kept = ids == self.clean
        return ((losses - self.before) * kept).sum(-1) / kept.sum(-1)

    def measure(self, ids) -> np.ndarray:
        """J of each text."""
        self.passes += len(ids)
        with torch.no_grad():
            parts = [
                self.damage(self.losses(self.model.get_input_embeddings()(self.inputs(part)), part), part)
                for part in ids.split(64)
            ]
        return torch.cat(parts).numpy()

    def best_tokens(self, ids, places, topk: int):
        """The ``topk`` allowed tokens that the gradient of J likes best at each of some positions."""
        self.passes += 1
        vectors = self.model.get_input_embeddings()(self.inputs(ids[None])).detach().requires_grad_()
        self.damage(self.losses(vectors, ids[None]), ids[None])[0].backward()
        gain = vectors.grad[0, 1:][torch.from_numpy(places)] @ self.embedding[self.allowed].T
        gain[self.allowed[None] == ids[torch.from_numpy(places)][:, None]] = -torch.inf
        return self.allowed[gain.topk(min(topk, gain.shape[1] - 1)).indices]


def gcg(plain: Plain, width: int, steps: int, seed: int) -> float:
    """GCG that keeps only what is better."""
    generator = np.random.default_rng(seed)
    ids, best = plain.clean.clone(), 0.0
    for _ in range(steps):
        changed = (ids != plain.clean).numpy()
        places = np.flatnonzero(changed) if changed.sum() >= FLIPS else plain.eligible
        table = plain.best_tokens(ids, places, 64)
        rows, columns = generator.integers(len(places), size=width), generator.integers(table.shape[1], size=width)
        batch = ids.repeat(width, 1)
        batch[torch.arange(width), torch.from_numpy(places[rows])] = table[rows, columns]
        found = plain.measure(batch)
        if found.max() > best:
            ids, best = batch[found.argmax()], float(found.max())
    return best


def nanogcg(plain: Plain, width: int, steps: int, seed: int) -> float:
    """nanoGCG's loop on five positions."""
    generator = np.random.default_rng(seed)
    places = np.sort(generator.choice(plain.eligible, size=FLIPS, replace=False))
    ids, best = plain.clean.clone(), 0.0
    for _ in range(steps):
        table = plain.best_tokens(ids, places, 256)
        rows, columns = generator.integers(FLIPS, size=width), generator.integers(table.shape[1], size=width)
        batch = ids.repeat(width, 1)
        batch[torch.arange(width), torch.from_numpy(places[rows])] = table[rows, columns]
        found = plain.measure(batch)
        ids, best = batch[found.argmax()], max(best, float(found.max()))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=Path, required=True, help="folder of attack_documents.py")
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--budgets", type=int, nargs="*", default=[46, 650, 2600], help="forward passes a document")
    options = parser.parse_args()
    torch.set_num_threads(1)
    manifest = read_manifest(options.documents)
    documents = manifest.test[: options.count]
    print(f"{'model':<28}{'attack':<16}{'passes':>8}{'J':>8}{'CPU s':>8}")
    for folder in options.models:
        model = load_model(folder)
        prefix = prefix_token(load_tokenizer(folder), "bos")
        name = "/".join(folder.parts[-3:-1])

        def tell(attack: str, passes: float, damages, start: float, name=name) -> None:
            seconds = time.process_time() - start
            print(f"{name:<28}{attack:<16}{passes:>8.0f}{np.mean(damages):>8.3f}{seconds:>8.1f}", flush=True)

        for budget in options.budgets:
            objective = TextObjective(Scorer(model, prefix))
            propose = GradientProposals(objective, manifest.vocabulary, 8)
            start = time.process_time()
            traces = hotflip.greedy(objective, documents, propose, flips=FLIPS, ceiling=budget if budget > 46 else 0)
            length = objective.tokens(len(documents[0].ids))
            passes = np.mean([trace.ledger.forward_tokens for trace in traces]) / length
            tell("ours", passes, [trace.best[-1].damage for trace in traces], start)
            if budget < 600:
                continue
            model.requires_grad_(False)
            for label, attack in (("GCG", gcg), ("nanoGCG", nanogcg)):
                start = time.process_time()
                plains = [Plain(model, prefix, document, manifest.vocabulary.allowed) for document in documents]
                damages = [attack(plain, 64, budget // 65, SEED) for plain in plains]
                tell(f"{label} 64x{budget // 65}", np.mean([plain.passes for plain in plains]), damages, start)


if __name__ == "__main__":
    main()
