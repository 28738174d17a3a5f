"""HotFlip: a gradient proposes, the true loss decides.

`greedy` re-scores M proposals exactly at each of K steps and keeps the best (or the
best w: a beam). `one_shot` and `published` are the published study's forms for Pythia and for T5: all K
flips from one gradient, nothing re-scored, nothing chosen by the loss it causes. The first takes the K flips of
the largest first-order gain, the second the K positions of the largest gradient and the best token of each.

Source: Ebrahimi et al. 2018 (arXiv:1712.06751), who estimate the change in loss from
one-hot derivatives; re-scoring each accepted flip exactly is ours.
"""

# Shape suffixes: B = states, T = text tokens, P = open positions, K = tokens kept, A = allowed tokens, D = width.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from isotone.attacks.gradient import GradientProposals, Ranking
from isotone.attacks.objective import Ledger, TextObjective, check_numbers
from isotone.attacks.proposals import (
    Flip,
    best_flips,
    flipped,
    random_flips,
    surviving,
)
from isotone.attacks.search import Plan, State, Trace, begin, search
from isotone.attacks.spec import AttackSpec, Cost
from isotone.evaluation.streams import stream
from isotone.schema import setting

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase as Tokenizer

    from isotone.attacks.context import Context
    from isotone.attacks.documents import Document
    from isotone.attacks.revise import Revision
    from isotone.attacks.settings import Attacks

WIDE = 32  # proposals per step of the second search


@dataclass(frozen=True)
class HotFlip:
    """First-order proposals, exact re-scoring."""

    flips: int = setting(5, "changed tokens per document (K)", minimum=1)
    candidates: int = setting(8, "proposals scored exactly per step (M)", minimum=1)
    beam: int = setting(1, "beam width (w)", minimum=1)
    one_shot: bool = setting(
        True, "also run the published study's form: all flips from one gradient, nothing re-scored"
    )
    published: bool = setting(
        False,
        "also run the published study's form for T5: the positions with the largest gradient, one gradient, nothing re-scored",
    )
    iterative: bool = setting(True, "run the greedy form with exact re-scoring")
    ceiling: int = setting(
        0,
        "forward passes per document up to which the greedy form begins anew with more proposals and revises its flips, doubling its effort until two doublings in a row gain less than 2 % each; 0: it never revises",
        minimum=0,
    )

    @property
    def forwards(self) -> int:
        """Forward and backward passes of the greedy form before it revises, the clean text aside: what others match."""
        return self.flips * (2 + self.beam * self.candidates)


def greedy(
    objective: TextObjective,
    documents: Sequence[Document],
    propose: GradientProposals,
    *,
    flips: int,
    beam: int = 1,
    ceiling: int = 0,
) -> list[Trace]:
    """K steps of M exactly scored proposals; up to ``ceiling`` forward passes a document, more of them, and revision.

    The first search takes K (2 + M) passes without a beam, of which K (1 + M) are forward. The second begins anew
    with a quarter of the ceiling, since the first flips decide where revision ends.
    """
    plan = Plan(flips=flips, steps=flips, beam=beam)
    traces = search(objective, documents, propose, plan)
    wide = min(WIDE, ceiling // (4 * flips))
    if wide > propose.count:
        search(objective, documents, replace(propose, count=wide), plan, traces)
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
    by_norm: bool = False,
) -> list[Trace]:
    """The best token of each position, the K best positions, one gradient.

    Args:
        by_norm: the best positions are those with the largest gradient (Euclidean norm), not the largest gain.

    State k of a trace holds the first k flips; its losses are not known yet (`measure` scores them).
    """
    ids_BT = np.stack([document.ids for document in documents])
    weights_BT = objective.kept(ids_BT, ids_BT).astype(np.float64)
    clean_BT, grad_BTD = objective.slopes(ids_BT, weights_BT)
    check_numbers(clean_BT, [document.name for document in documents])
    spent = Ledger(objective.tokens(ids_BT.shape[1]), objective.tokens(ids_BT.shape[1]))
    traces = []
    for document, clean, grad_TD in zip(documents, clean_BT, grad_BTD, strict=True):
        choice_PK, gain_PK = ranking.best(document.ids, grad_TD, document.eligible, 1)
        ranked = best_flips(document.eligible, choice_PK, gain_PK, ranking.vocabulary.allowed, len(document.eligible))
        if by_norm:
            ranked = _steepest(ranked, grad_TD)
        chosen: list[Flip] = []
        for flip in ranked:
            if len(chosen) == flips:
                break
            if tokenizer is None or surviving(flipped(document.ids, chosen), [flip], tokenizer):
                chosen.append(flip)
        states = []
        for count in range(flips + 1):
            part = chosen[:count]
            kept = int(objective.kept(flipped(document.ids, part), document.ids).sum())
            predicted = [float(flip.gain or 0.0) / max(kept, 1) for flip in part]
            order = [flip.position for flip in part]
            states.append(State(flipped(document.ids, part), order, clean, 0.0, predicted))
        traces.append(Trace(document, clean, states, [spent] * (flips + 1), spent))
    return traces


def _steepest(flips: Sequence[Flip], grad_TD: Tensor) -> list[Flip]:
    """Flips of one token per position, those where the gradient is longest first."""
    norm_T = grad_TD.double().norm(dim=-1).numpy()
    return sorted(flips, key=lambda flip: -norm_T[flip.position])


def attack(context: Context, documents: Sequence[Document]) -> dict[str, list[Trace]]:
    """Every form that the settings ask for."""
    settings = context.job.hotflip
    propose = GradientProposals(context.objective, context.vocabulary, settings.candidates, context.tokenizer)
    if context.restart:
        return {"greedy": afresh(context, documents, propose)}
    found = {}
    for name in _one_gradient(settings):
        found[name] = one_shot(
            context.objective,
            documents,
            propose.ranking,
            flips=settings.flips,
            tokenizer=context.tokenizer,
            by_norm=name == "published",
        )
    if settings.iterative:
        found["greedy"] = greedy(
            context.objective, documents, propose, flips=settings.flips, beam=settings.beam, ceiling=settings.ceiling
        )
    return found


def _one_gradient(settings: HotFlip) -> list[str]:
    return ["one_shot"] * settings.one_shot + ["published"] * settings.published


def _variants(settings: HotFlip) -> list[str]:
    return _one_gradient(settings) + ["greedy"] * settings.iterative


def _cost(attacks: Attacks) -> Cost:
    settings, shared = attacks.hotflip, attacks.shared
    tokens = float(shared.documents * (shared.window + 1))
    rounds = max(0, settings.ceiling - settings.forwards) / (1 + 2 * settings.candidates)
    return Cost(tokens * max(settings.forwards, settings.ceiling), tokens * (settings.flips + rounds))


SPEC = AttackSpec(
    name="hotflip",
    title="gradient-guided flips",
    settings=HotFlip,
    search=attack,
    variants=_variants,
    prefers=("greedy", "one_shot", "published"),
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
    on_pairs=True,
)
