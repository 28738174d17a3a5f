"""HotFlip: a gradient proposes, the true loss decides.

`greedy` re-scores M proposals exactly at each of K steps and keeps the best (or the
best w: a beam). `one_shot` is the first study's form: all K flips from one gradient,
nothing re-scored, nothing chosen by the loss it causes.

Source: Ebrahimi et al. 2018 (arXiv:1712.06751), who estimate the change in loss from
one-hot derivatives; re-scoring each accepted flip exactly is ours.
"""

# Shape suffixes: B = states, T = text tokens, P = open positions, K = tokens kept, A = allowed tokens, D = width.

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from isotone.attacks.objective import Ledger, TextObjective, check_numbers
from isotone.attacks.proposals import (
    Flip,
    best_flips,
    flipped,
    fresh_flips,
    random_flips,
    rank_flips,
    surviving,
    with_saturation,
)
from isotone.attacks.search import Plan, Position, State, Trace, begin, search
from isotone.attacks.spec import AttackSpec, Cost
from isotone.config.schema import setting
from isotone.evaluation.streams import stream
from isotone.models import token_vectors

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase as Tokenizer

    from isotone.attacks.context import Context
    from isotone.attacks.documents import Document
    from isotone.attacks.revise import Revision
    from isotone.attacks.vocabulary import Vocabulary
    from isotone.config.attacks import Attacks

# New proposals at one position per step; on a small model J at M = 8 was 0.529, 0.523, 0.503 nats for 1, 2, 4.
PER_POSITION = 1
DEEP = 4  # in the threat model `text`, so many times more proposals are looked at as are wanted


@dataclass(frozen=True)
class HotFlip:
    """First-order proposals, exact re-scoring."""

    flips: int = setting(5, "changed tokens per document (K)", minimum=1)
    candidates: int = setting(8, "proposals scored exactly per step (M)", minimum=1)
    beam: int = setting(1, "beam width (w)", minimum=1)
    one_shot: bool = setting(True, "also run the first study's form: all flips from one gradient, nothing re-scored")
    iterative: bool = setting(True, "run the greedy form with exact re-scoring")
    ceiling: int = setting(
        0,
        "forward passes per document up to which the greedy form revises its flips, doubling its effort until two doublings in a row gain less than 2 % each; 0: it never revises",
        minimum=0,
    )

    @property
    def forwards(self) -> int:
        """Forward and backward passes of the greedy form before it revises, the clean text aside: what others match."""
        return self.flips * (2 + self.beam * self.candidates)


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
        per_position: at most so many of them at one position.
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
        kept_BT = self.objective.counts(ids_BT != np.stack([position.document.ids for position in asking]))
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
        tables = self.tables(asking, ledgers, deep * self.per_position + max(tried))
        found = []
        for position, (choice_PK, gain_PK) in zip(asking, tables, strict=True):
            old = self._remembered(position)
            ranked = best_flips(position.open, choice_PK, gain_PK, self.vocabulary.allowed, gain_PK.size)
            new = fresh_flips(ranked, position.seen, deep * (self.count - len(old)), deep * self.per_position)
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


def greedy(
    objective: TextObjective,
    documents: Sequence[Document],
    propose: GradientProposals,
    *,
    flips: int,
    beam: int = 1,
    ceiling: int = 0,
) -> list[Trace]:
    """K steps of M exactly scored proposals, then revision up to ``ceiling`` forward passes a document.

    K (2 + M) passes without a beam, of which K (1 + M) are forward.
    """
    traces = search(objective, documents, propose, Plan(flips=flips, steps=flips, beam=beam))
    if ceiling:
        revision(propose, ceiling)(objective, traces)
    return traces


def afresh(context: Context, documents: Sequence[Document], propose: GradientProposals) -> list[Trace]:
    """Revision of random flips, as long as the greedy form and its revision may take: a fresh start, to judge convergence by."""
    settings = context.job.hotflip
    traces = begin(context.objective, documents, settings.flips)
    starts = []
    for document in documents:
        generator = stream(context.seed, "hotflip", document.name, restart=context.restart)
        places = generator.permutation(document.eligible)[: settings.flips]
        starts.append(
            [random_flips(generator, document.ids, place[None], context.vocabulary.allowed, 1)[0] for place in places]
        )
    first = settings.forwards - settings.flips
    revision(propose, settings.ceiling).afresh(context.objective, traces, starts, first)
    return traces


def revision(propose: GradientProposals, ceiling: int) -> Revision:
    """How the greedy form goes on."""
    from isotone.attacks.revise import COUNT, Revision

    return Revision(propose, ceiling, min(COUNT, 2 * propose.count))


def one_shot(
    objective: TextObjective,
    documents: Sequence[Document],
    ranking: Ranking,
    *,
    flips: int,
    tokenizer: Tokenizer | None = None,
) -> list[Trace]:
    """The first study's form: the best token of each position, the K best positions, one gradient.

    State k of a trace holds the first k flips; its losses are not known yet (`measure` scores them).
    """
    ids_BT = np.stack([document.ids for document in documents])
    weights_BT = objective.counts(np.zeros(ids_BT.shape, bool)).astype(np.float64)
    clean_BT, grad_BTD = objective.slopes(ids_BT, weights_BT)
    check_numbers(clean_BT, [document.name for document in documents])
    spent = Ledger(objective.tokens(ids_BT.shape[1]), objective.tokens(ids_BT.shape[1]))
    traces = []
    for document, clean, grad_TD in zip(documents, clean_BT, grad_BTD, strict=True):
        choice_PK, gain_PK = ranking.best(document.ids, grad_TD, document.eligible, 1)
        ranked = best_flips(document.eligible, choice_PK, gain_PK, ranking.vocabulary.allowed, len(document.eligible))
        chosen: list[Flip] = []
        for flip in ranked:
            if len(chosen) == flips:
                break
            if tokenizer is None or surviving(flipped(document.ids, chosen), [flip], tokenizer):
                chosen.append(flip)
        states = []
        for count in range(flips + 1):
            part = chosen[:count]
            predicted = [float(flip.gain or 0.0) / max(len(clean) - len(part), 1) for flip in part]
            order = [flip.position for flip in part]
            states.append(State(flipped(document.ids, part), order, clean, 0.0, predicted))
        traces.append(Trace(document, clean, states, [spent] * (flips + 1), spent))
    return traces


def attack(context: Context, documents: Sequence[Document]) -> dict[str, list[Trace]]:
    """Both forms, as the settings say."""
    settings = context.job.hotflip
    propose = GradientProposals(context.objective, context.vocabulary, settings.candidates, context.tokenizer)
    if context.restart:
        return {"greedy": afresh(context, documents, propose)}
    found = {}
    if settings.one_shot:
        found["one_shot"] = one_shot(
            context.objective, documents, propose.ranking, flips=settings.flips, tokenizer=context.tokenizer
        )
    if settings.iterative:
        found["greedy"] = greedy(
            context.objective, documents, propose, flips=settings.flips, beam=settings.beam, ceiling=settings.ceiling
        )
    return found


def _variants(settings: HotFlip) -> list[str]:
    return ["one_shot"] * settings.one_shot + ["greedy"] * settings.iterative


def _cost(attacks: Attacks) -> Cost:
    settings, shared = attacks.hotflip, attacks.shared
    tokens = float(shared.documents * (shared.window + 1))
    rounds = max(0, settings.ceiling - settings.forwards) / (1 + settings.candidates)
    return Cost(tokens * max(settings.forwards, settings.ceiling), tokens * (settings.flips + rounds))


SPEC = AttackSpec(
    name="hotflip",
    title="gradient-guided flips",
    settings=HotFlip,
    search=attack,
    variants=_variants,
    prefers=("greedy", "one_shot"),
    restarted=lambda settings: ["greedy"] * settings.iterative,
    flips=lambda settings: settings.flips,
    cost=_cost,
    sentence=lambda settings: (
        f"HotFlip {settings.flips} flips, {settings.candidates} candidates per step, beam {settings.beam}, "
        "each accepted flip re-scored exactly"
        + (f", then revised up to {settings.ceiling} forward passes a document" if settings.ceiling else "")
    ),
    beats=(("greedy", "hotflip", "one_shot"), ("greedy", "query", "greedy")),
    guided=True,
)
