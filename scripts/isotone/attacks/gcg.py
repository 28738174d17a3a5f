"""GCG for untargeted loss: a gradient narrows the choice, chance draws from it, the true loss decides.

Source: Zou et al. 2023 (arXiv:2307.15043), algorithm 1: the top-k tokens of each
position by gradient, B uniform draws of one replacement, the best draw is kept.
Theirs minimises the loss of a target in a fixed suffix; ours raises the loss of the
text and opens every eligible position until K have changed, then only those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isotone.attacks.gradient import GradientProposals
from isotone.attacks.proposals import Flip, surviving
from isotone.attacks.search import Plan, Position, Trace, search
from isotone.attacks.spec import AttackSpec, Cost, Effort
from isotone.attacks.uat import trigger_cost
from isotone.evaluation.streams import stream
from isotone.schema import setting

if TYPE_CHECKING:
    from isotone.attacks.context import Context
    from isotone.attacks.documents import Document
    from isotone.attacks.objective import Ledger, TextObjective
    from isotone.attacks.settings import Attacks


@dataclass(frozen=True)
class GreedyCoordinateGradient:
    """GCG for untargeted loss."""

    form: str = setting(
        "document", "document: flips in each text; universal: one trigger for all", enum=["document", "universal"]
    )
    flips: int = setting(5, "positions that may change per document, or trigger tokens", minimum=1)
    iterations: int = setting(20, "steps", minimum=1)
    search_width: int = setting(32, "candidates scored per step", minimum=1)
    topk: int = setting(64, "best tokens per position from which candidates are drawn", minimum=1)
    restarts: int = setting(2, "form universal: independent searches", minimum=1)
    batch: int = setting(4, "form universal: search documents per step", minimum=1)


@dataclass
class SampledProposals:
    """Uniform draws from the ``topk`` tokens that the gradient likes best at each open position."""

    gradients: GradientProposals
    topk: int
    count: int
    seed: int
    restart: int = 0

    def __call__(self, asking: Sequence[Position], ledgers: dict[str, Ledger]) -> list[list[Flip]]:
        """``count`` flips for each state."""
        found = []
        tables = self.gradients.tables(asking, ledgers, self.topk)
        for position, (choice_PK, gain_PK) in zip(asking, tables, strict=True):
            generator = stream(self.seed, "gcg", position.document.name, restart=self.restart, step=position.step)
            rows = generator.integers(len(position.open), size=self.count)
            columns = generator.integers(choice_PK.shape[1], size=self.count)
            tokens = self.gradients.vocabulary.allowed[choice_PK[rows, columns]]
            flips = [
                Flip(int(position.open[row]), int(token), float(gain_PK[row, column]))
                for row, column, token in zip(rows, columns, tokens, strict=True)
                if np.isfinite(gain_PK[row, column])
            ]
            tokenizer = self.gradients.tokenizer
            found.append(flips if tokenizer is None else surviving(position.state.ids, flips, tokenizer))
        return found


def gcg(
    objective: TextObjective, documents: Sequence[Document], propose: SampledProposals, *, flips: int, iterations: int
) -> list[Trace]:
    """``iterations`` draws of ``propose.count`` candidates; a changed position may change again, or back."""
    return search(objective, documents, propose, Plan(flips=flips, steps=iterations, revise=True))


def attack(context: Context, documents: Sequence[Document]) -> dict[str, list[Trace]]:
    """GCG in each text; the universal form is a search for a trigger."""
    settings = context.job.gcg
    gradients = GradientProposals(context.objective, context.vocabulary, settings.search_width, context.tokenizer)
    propose = SampledProposals(gradients, settings.topk, settings.search_width, context.seed, context.restart)
    return {"gcg": gcg(context.objective, documents, propose, flips=settings.flips, iterations=settings.iterations)}


def trigger(settings: GreedyCoordinateGradient) -> Effort | None:
    """The budget of the universal form."""
    if settings.form != "universal":
        return None
    return Effort(
        settings.flips, settings.restarts, settings.iterations, settings.search_width, settings.batch, settings.topk
    )


def _form(settings: GreedyCoordinateGradient) -> str:
    return "trigger" if settings.form == "universal" else "gcg"


def _cost(attacks: Attacks) -> Cost:
    settings, shared = attacks.gcg, attacks.shared
    effort = trigger(settings)
    if effort:
        return trigger_cost(effort, shared)
    tokens = float(shared.documents * settings.iterations * (shared.window + 1))
    return Cost(tokens * (1 + settings.search_width), tokens)


def _sentence(settings: GreedyCoordinateGradient) -> str:
    what = (
        f"a universal trigger of {settings.flips} tokens" if trigger(settings) else f"{settings.flips} open positions"
    )
    return f"GCG with {what}, {settings.iterations} steps, search width {settings.search_width}, top-k {settings.topk}"


SPEC = AttackSpec(
    name="gcg",
    title="greedy coordinate gradient",
    settings=GreedyCoordinateGradient,
    search=attack,
    trigger=trigger,
    variants=lambda settings: [_form(settings)],
    prefers=("gcg", "trigger"),
    restarted=lambda settings: [_form(settings)],
    flips=lambda settings: settings.flips,
    cost=_cost,
    sentence=_sentence,
    on_pairs=True,
)
