"""Small targets for the tests of scoring and attacks."""

from __future__ import annotations

import models_zoo as zoo
import numpy as np
import torch
from isotone.attacks.context import Context
from isotone.attacks.documents import Document, Manifest, eligible_positions, unigram_counts
from isotone.attacks.objective import TextObjective
from isotone.attacks.settings import AttackJob
from isotone.attacks.vocabulary import Vocabulary, allowed_tokens, pieces_of
from isotone.evaluation.scoring import Comparison, Scorer
from isotone.schema import parse

SMALL = {
    "shared": {"fresh_starts": 0, "crossed": 2},
    "hotflip": {"flips": 2, "candidates": 3},
    "uat": {"length": 2, "restarts": 2, "iterations": 2, "candidates": 4, "batch": 2},
    "query": {"flips": 2},
    "random": {"flips": 2},
    "noise": {},
    "soft": {"iterations": 3},
    "gcg": {"flips": 2, "iterations": 3, "search_width": 4, "topk": 8, "batch": 2},
}


def documents(count: int, length: int = 20, *, seed: int = 0, shorten: int = 0) -> list[Document]:
    """Random texts; every third is ``shorten`` tokens shorter."""
    found = []
    for index, ids in enumerate(zoo.random_ids(count, length, seed=seed).numpy()):
        ids = ids[: length - shorten * (index % 3 == 2)]
        found.append(Document(f"document {index}", ids, eligible_positions(ids, [0])))
    return found


def vocabulary(search: list[Document], size: int = zoo.VOCABULARY) -> Vocabulary:
    pieces = pieces_of(zoo.tiny_tokenizer(), size)
    return Vocabulary(allowed_tokens(pieces, [0], "printable"), pieces, unigram_counts(search, size))


def manifest(count: int = 6, *, shorten: int = 3) -> Manifest:
    test, search = documents(count, shorten=shorten), documents(4, seed=9)
    return Manifest(test, search, vocabulary(search), "digest")


def objective(family: str = "gpt_neox", *, prefix: int | None = 0, batch: int = 0, seed: int = 0) -> TextObjective:
    return TextObjective(Scorer(zoo.tiny(family, seed=seed), prefix, batch=batch))


def job(**changes: dict) -> AttackJob:
    return parse(AttackJob, {key: {**value, **changes.get(key, {})} for key, value in SMALL.items()})


def context(target: TextObjective, documents: Manifest, **changes: dict) -> Context:
    return Context(target, documents.vocabulary, job(**changes))


class Planted(TextObjective):
    """An objective with a planted weakness: one token at one position costs every later token a nat.

    The gradient points there too; nothing else changes anything.
    """

    def __init__(self, place: int, token: int, size: int = zoo.VOCABULARY) -> None:
        class Bare:
            prefix = 0
            embedding = torch.nn.Embedding(size, size)

            def compare(self, before_T, after_T, temperature=1.0):
                zero, true = torch.zeros(len(before_T)), torch.ones(len(before_T), dtype=torch.bool)
                return Comparison(zero, true, true, true, zero, zero)

        Bare.embedding.weight.data = torch.eye(size)
        self.place, self.token = place, token
        super().__init__(Bare())

    def scores(self, ids_BT):
        nll = np.full(ids_BT.shape, 2.0)
        hit = ids_BT[:, self.place] == self.token
        nll[hit, self.place + 1 :] += 1.0
        return nll

    def flips(self, ids_BT, nll_BT, rows_N, places_N, tokens_N):
        ids = ids_BT[rows_N].copy()
        ids[np.arange(len(ids)), places_N] = tokens_N
        return self.scores(ids)

    def slopes(self, ids_BT, weights_BT):
        grad = torch.zeros(*ids_BT.shape, len(self.scorer.embedding.weight))
        grad[:, self.place, self.token] = float(ids_BT.shape[1] - self.place - 1)
        return self.scores(ids_BT), grad


class Additive(Planted):
    """Each substitution costs the last token what a table says, whatever else has changed."""

    def __init__(self, rises: dict[tuple[int, int], float]) -> None:
        super().__init__(0, 0)
        self.rises = rises

    def scores(self, ids_BT):
        nll = np.full(ids_BT.shape, 2.0)
        for (place, token), rise in self.rises.items():
            nll[ids_BT[:, place] == token, -1] += rise
        return nll
