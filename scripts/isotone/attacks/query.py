"""Greedy search without gradients: random proposals, scored by the target's own loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isotone.attacks.context import Context
from isotone.attacks.documents import Document
from isotone.attacks.hotflip import surviving
from isotone.attacks.objective import Ledger, TextObjective
from isotone.attacks.proposals import Flip, random_flips
from isotone.attacks.search import Plan, Position, Trace, search
from isotone.attacks.vocabulary import Vocabulary
from isotone.evaluation.streams import stream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


@dataclass
class RandomProposals:
    """Uniform (position, token) pairs from a stream of their own for every document and step."""

    vocabulary: Vocabulary
    count: int
    seed: int
    tokenizer: Tokenizer | None = None

    def __call__(self, asking: Sequence[Position], ledgers: dict[str, Ledger]) -> list[list[Flip]]:
        """``count`` flips for each state."""
        found = []
        for position in asking:
            generator = stream(self.seed, "query", position.document.name, restart=position.rank, step=position.step)
            flips = random_flips(generator, position.state.ids, position.open, self.vocabulary.allowed, self.count)
            found.append(flips if self.tokenizer is None else surviving(position.state.ids, flips, self.tokenizer))
        return found


def matched_candidates(flips: int, proposals: int, beam: int, own_flips: int) -> int:
    """Proposals per step that cost as many forward passes as hotflip's K (2 + w M)."""
    return max(1, flips * (2 + beam * proposals) // own_flips)


def query(
    objective: TextObjective, documents: Sequence[Document], propose: RandomProposals, *, flips: int
) -> list[Trace]:
    """K steps; the best of ``propose.count`` random flips at each."""
    return search(objective, documents, propose, Plan(flips=flips, steps=flips))


def attack(context: Context, documents: Sequence[Document]) -> dict[str, list[Trace]]:
    """At hotflip's number of forward passes unless the settings say otherwise."""
    settings, hotflip = context.job.query, context.job.hotflip
    count = settings.candidates or matched_candidates(hotflip.flips, hotflip.candidates, hotflip.beam, settings.flips)
    propose = RandomProposals(context.vocabulary, count * context.effort, context.seed, context.tokenizer)
    return {"greedy": query(context.objective, documents, propose, flips=settings.flips)}
