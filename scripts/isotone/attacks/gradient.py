"""Proposals of a gradient: for every open position the tokens that a first-order estimate likes best."""

# Shape suffixes: B = states, T = text tokens, P = open positions, K = tokens kept, A = allowed tokens, D = width.

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from isotone.attacks.objective import Ledger, TextObjective, check_numbers
from isotone.attacks.proposals import (
    Flip,
    best_flips,
    fresh_flips,
    rank_flips,
    surviving,
    with_saturation,
)
from isotone.attacks.search import Position
from isotone.models import token_vectors

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase as Tokenizer

    from isotone.attacks.vocabulary import Vocabulary

# New proposals at one position per step; on a small model J at M = 8 was 0.529, 0.523, 0.503 nats for 1, 2, 4.
PER_POSITION = 1
DEEP = 4  # in the threat model `text`, so many times more proposals are looked at as are wanted


@dataclass
class Ranking:
    """The embeddings of a model, ready to rank tokens by a gradient, on the device that scores."""

    objective: TextObjective
    vocabulary: Vocabulary
    embedding_VD: Tensor = field(init=False)
    allowed_AD: Tensor = field(init=False)
    index_V: Tensor = field(init=False)

    def __post_init__(self) -> None:
        import torch

        self.embedding_VD = token_vectors(self.objective.scorer.embedding)
        device = self.embedding_VD.device
        allowed = torch.from_numpy(self.vocabulary.allowed).to(device)
        self.allowed_AD = self.embedding_VD[allowed]
        self.index_V = torch.full((len(self.embedding_VD),), -1, device=device)
        self.index_V[allowed] = torch.arange(len(allowed), device=device)

    def best(self, ids_T: np.ndarray, grad_TD: Tensor, places: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
        """``(choice_PK, gain_PK)`` of `rank_flips` for one text."""
        import torch

        device = self.embedding_VD.device
        standing_P = torch.from_numpy(ids_T[places]).to(device)
        choice_PK, gain_PK = rank_flips(
            grad_TD[torch.from_numpy(places)].to(device),
            self.allowed_AD,
            self.embedding_VD[standing_P],
            self.index_V[standing_P],
            keep=keep,
        )
        return choice_PK.cpu().numpy(), gain_PK.cpu().numpy()


@dataclass
class GradientProposals:
    """First-order proposals for every open position.

    Attributes:
        count: proposals per state (M).
        per_position: at most so many of them at one position, or as many as M takes where positions are few.
        objective: gives the gradient; another model's for crossed gradients.
        tokenizer: given in the threat model `text`; flips that do not survive are rejected.
        clean: unchanged losses under ``objective`` by document; None: those of the search itself.
    """

    objective: TextObjective
    vocabulary: Vocabulary
    count: int
    tokenizer: Tokenizer | None = None
    clean: dict[str, np.ndarray] | None = None
    per_position: int = PER_POSITION

    def __post_init__(self) -> None:
        self.ranking = Ranking(self.objective, self.vocabulary)
        self.surprise_V = self.vocabulary.unigram_nll()

    def tables(
        self, asking: Sequence[Position], ledgers: dict[str, Ledger], keep: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """``keep`` best tokens of each open position: ``(choice_PK, gain_PK)`` per state."""
        return self.tables_and_losses(asking, ledgers, keep)[0]

    def tables_and_losses(
        self, asking: Sequence[Position], ledgers: dict[str, Ledger], keep: int
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
        """`tables`, and the losses of the states under ``objective``, which the same passes give: ``[B, T]``."""
        ids_BT = np.stack([position.state.ids for position in asking])
        kept_BT = self.objective.kept(ids_BT, np.stack([position.document.ids for position in asking]))
        nll_BT, grad_BTD = self.objective.slopes(ids_BT, kept_BT.astype(np.float64))
        check_numbers(nll_BT, [position.document.name for position in asking])
        result = []
        for row, position in enumerate(asking):
            ledger = ledgers[position.document.name]
            ledger.forward_tokens += self.objective.tokens(ids_BT.shape[1])
            ledger.backward_tokens += self.objective.tokens(ids_BT.shape[1])
            clean = position.clean if self.clean is None else self.clean[position.document.name]
            choice_PK, gain_PK = self.ranking.best(ids_BT[row], grad_BTD[row], position.open, keep)
            surprise_T = self.surprise_V[ids_BT[row]]
            gain_PK = with_saturation(gain_PK, position.open, nll_BT[row], clean, kept_BT[row], surprise_T)
            result.append((choice_PK, gain_PK))
        return result, nll_BT

    def __call__(self, asking: Sequence[Position], ledgers: dict[str, Ledger]) -> list[list[Flip]]:
        """M flips of each state: the best that earlier steps measured and did not take, and untried ones.

        What a flip does hardly depends on flips elsewhere, so a rejected flip needs no second proposal
        unless it was nearly the best; the rest of the budget goes to flips that were never scored.
        """
        deep = DEEP if self.tokenizer is not None else 1
        tried = [max(Counter(place for place, _ in position.seen).values(), default=0) for position in asking]
        each = [max(self.per_position, math.ceil(self.count / len(position.open))) for position in asking]
        tables = self.tables(asking, ledgers, deep * max(each) + max(tried))
        found = []
        for position, most, (choice_PK, gain_PK) in zip(asking, each, tables, strict=True):
            old = self._remembered(position)
            ranked = best_flips(position.open, choice_PK, gain_PK, self.vocabulary.allowed, gain_PK.size)
            new = fresh_flips(ranked, position.seen, deep * (self.count - len(old)), deep * most)
            if self.tokenizer is not None:
                old, new = (surviving(position.state.ids, flips, self.tokenizer) for flips in (old, new))
            found.append([*old, *new[: self.count - len(old)]])
        return found

    def _remembered(self, position: Position) -> list[Flip]:
        """The best quarter of the budget from what was measured at earlier steps and is still open."""
        places = set(position.open.tolist())
        kept = int((position.state.ids == position.document.ids).sum())
        options = [
            Flip(place, token, gain * kept, True)
            for (place, token), gain in position.seen.items()
            if place in places and position.state.ids[place] != token
        ]
        return sorted(options, key=lambda flip: -(flip.gain or 0.0))[: max(1, self.count // 4)]
