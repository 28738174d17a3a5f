"""GCG for untargeted loss: a gradient narrows the choice, chance draws from it, the true loss decides.

Source: Zou et al. 2023 (arXiv:2307.15043), algorithm 1: the top-k tokens of each
position by gradient, B uniform draws of one replacement, the best draw is kept.
Theirs minimises the loss of a target in a fixed suffix; ours raises the loss of the
text and opens every eligible position until K have changed, then only those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isotone.attacks.context import Context
from isotone.attacks.documents import Document
from isotone.attacks.hotflip import GradientProposals, surviving
from isotone.attacks.objective import Ledger, TextObjective
from isotone.attacks.proposals import Flip
from isotone.attacks.search import Plan, Position, Trace, search
from isotone.evaluation.streams import stream


@dataclass
class SampledProposals:
    """Uniform draws from the ``top`` tokens that the gradient likes best at each open position."""

    gradients: GradientProposals
    top: int
    count: int
    seed: int

    def __call__(self, asking: Sequence[Position], ledgers: dict[str, Ledger]) -> list[list[Flip]]:
        """``count`` flips for each state."""
        found = []
        tables = self.gradients.tables(asking, ledgers, self.top)
        for position, (choice_PK, gain_PK) in zip(asking, tables, strict=True):
            generator = stream(self.seed, "gcg", position.document.name, step=position.step)
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
    """GCG in each text (the universal form is in `uat`)."""
    settings = context.job.gcg
    gradients = GradientProposals(context.objective, context.vocabulary, settings.candidates, context.tokenizer)
    propose = SampledProposals(gradients, settings.top, settings.candidates, context.seed)
    iterations = settings.iterations * context.effort
    return {"gcg": gcg(context.objective, documents, propose, flips=settings.flips, iterations=iterations)}
