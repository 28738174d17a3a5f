"""Greedy search without gradients: random proposals, scored by the target's own loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isotone.attacks.proposals import Flip, random_flips, surviving
from isotone.attacks.search import Plan, Position, Trace, search
from isotone.attacks.spec import AttackSpec, Cost
from isotone.evaluation.streams import stream
from isotone.schema import setting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

    from isotone.attacks.context import Context
    from isotone.attacks.documents import Document
    from isotone.attacks.objective import Ledger, TextObjective
    from isotone.attacks.settings import Attacks
    from isotone.attacks.vocabulary import Vocabulary


@dataclass(frozen=True)
class QueryAttack:
    """Greedy search without gradients, at hotflip's number of forward passes."""

    flips: int = setting(5, "changed tokens per document", minimum=1)
    candidates: int = setting(0, "random proposals per step; 0: as many forwards as hotflip spends", minimum=0)


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


def matched_candidates(forwards: int, flips: int) -> int:
    """Proposals at each of ``flips`` steps that cost ``forwards`` passes together."""
    return max(1, forwards // flips)


def query(
    objective: TextObjective, documents: Sequence[Document], propose: RandomProposals, *, flips: int
) -> list[Trace]:
    """K steps; the best of ``propose.count`` random flips at each."""
    return search(objective, documents, propose, Plan(flips=flips, steps=flips))


def attack(context: Context, documents: Sequence[Document]) -> dict[str, list[Trace]]:
    """At hotflip's number of forward passes unless the settings say otherwise."""
    settings = context.job.query
    count = settings.candidates or matched_candidates(context.job.hotflip.forwards, settings.flips)
    propose = RandomProposals(context.vocabulary, count, context.seed, context.tokenizer)
    return {"greedy": query(context.objective, documents, propose, flips=settings.flips)}


def _cost(attacks: Attacks) -> Cost:
    settings, shared = attacks.query, attacks.shared
    forwards = settings.flips * settings.candidates or attacks.hotflip.forwards
    return Cost(float(shared.documents * forwards * (shared.window + 1)))


SPEC = AttackSpec(
    name="query",
    title="no gradients",
    settings=QueryAttack,
    search=attack,
    variants=lambda settings: ["greedy"],
    prefers=("greedy",),
    flips=lambda settings: settings.flips,
    cost=_cost,
    sentence=lambda settings: (
        f"gradient-free greedy search with {settings.flips} flips at HotFlip's number of forward passes"
    ),
    reads=("hotflip",),
    on_pairs=True,
    beats=(("greedy", "random", "best_of_n"),),
)
