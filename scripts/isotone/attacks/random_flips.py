"""The random baseline: flips that look at nothing, and the best of many such draws."""

# Shape suffixes: N = draws, T = text tokens.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isotone.attacks.objective import Ledger, TextObjective, check_numbers, damage
from isotone.attacks.proposals import Flip, flipped, random_flips, surviving
from isotone.attacks.search import State, Trace, begin
from isotone.attacks.spec import AttackSpec, Cost
from isotone.evaluation.streams import stream
from isotone.schema import setting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

    from isotone.attacks.context import Context
    from isotone.attacks.documents import Document
    from isotone.attacks.settings import Attacks
    from isotone.attacks.vocabulary import Vocabulary

TRIES = 50  # draws for one flip before the text is left as it is (threat model `text`)


@dataclass(frozen=True)
class RandomAttack:
    """Random flips at matched positions, and the best of N at the full budget."""

    flips: int = setting(5, "changed tokens per document", minimum=1)
    draws: int = setting(0, "draws for best of N; 0: as many forwards as hotflip spends", minimum=0)


def draw(
    document: Document,
    vocabulary: Vocabulary,
    *,
    flips: int,
    seed: int,
    variant: str,
    restart: int = 0,
    tokenizer: Tokenizer | None = None,
) -> list[Flip]:
    """One random attack: ``flips`` distinct positions, one token each (fewer if too few are open or survive)."""
    generator = stream(seed, f"random/{variant}", document.name, restart=restart)
    counts = vocabulary.counts[vocabulary.allowed]
    weights = counts if variant == "unigram" and np.count_nonzero(counts) > 1 else None
    places = generator.permutation(document.eligible)
    chosen: list[Flip] = []
    for place in places:
        if len(chosen) == flips:
            break
        for _ in range(TRIES if tokenizer else 1):
            flip = random_flips(generator, document.ids, np.array([place]), vocabulary.allowed, 1, weights)[0]
            if tokenizer is None or surviving(flipped(document.ids, chosen), [flip], tokenizer):
                chosen.append(flip)
                break
    return chosen


def _states(document: Document, clean: np.ndarray, chosen: Sequence[Flip], flips: int) -> list[State]:
    states = []
    for count in range(flips + 1):
        part = chosen[:count]
        states.append(State(flipped(document.ids, part), [flip.position for flip in part], clean, 0.0))
    return states


def fixed(
    objective: TextObjective,
    documents: Sequence[Document],
    vocabulary: Vocabulary,
    *,
    flips: int,
    seed: int,
    variant: str,
    tokenizer: Tokenizer | None = None,
) -> list[Trace]:
    """One draw a document; state k holds its first k flips (`measure` scores them)."""
    traces = begin(objective, documents, flips)
    for trace in traces:
        chosen = draw(trace.document, vocabulary, flips=flips, seed=seed, variant=variant, tokenizer=tokenizer)
        trace.best = _states(trace.document, trace.clean, chosen, flips)
    return traces


def best_of(
    objective: TextObjective,
    documents: Sequence[Document],
    vocabulary: Vocabulary,
    *,
    flips: int,
    draws: int,
    seed: int,
    tokenizer: Tokenizer | None = None,
) -> list[Trace]:
    """The draw with the highest J among ``draws``."""
    traces = begin(objective, documents, flips)
    for trace in traces:
        document = trace.document
        options = [
            draw(
                document, vocabulary, flips=flips, seed=seed, variant="best_of_n", restart=restart, tokenizer=tokenizer
            )
            for restart in range(draws)
        ]
        ids_NT = np.stack([flipped(document.ids, option) for option in options])
        nll_NT = objective.scores(ids_NT)
        check_numbers(nll_NT, [document.name] * draws)
        damage_N = damage(nll_NT, trace.clean, objective.kept(ids_NT, document.ids))
        winner = int(np.argmax(damage_N))
        cost = draws * objective.tokens(len(document.ids))
        trace.ledger = trace.ledger.plus(Ledger(forward_tokens=cost, candidates=draws))
        trace.best = _states(document, trace.clean, options[winner], flips)
        trace.spent = [trace.spent[0], *[trace.ledger] * flips]
    return traces


def attack(context: Context, documents: Sequence[Document]) -> dict[str, list[Trace]]:
    """All three forms."""
    settings = context.job.random
    draws = settings.draws or context.job.hotflip.forwards
    flips, seed, tokenizer = settings.flips, context.seed, context.tokenizer
    objective, vocabulary = context.objective, context.vocabulary
    found = {
        variant: fixed(objective, documents, vocabulary, variant=variant, flips=flips, seed=seed, tokenizer=tokenizer)
        for variant in ("matched", "unigram")
    }
    found["best_of_n"] = best_of(
        objective, documents, vocabulary, draws=draws, flips=flips, seed=seed, tokenizer=tokenizer
    )
    return found


def _cost(attacks: Attacks) -> Cost:
    draws = attacks.random.draws or attacks.hotflip.forwards
    return Cost(float(attacks.shared.documents * draws * (attacks.shared.window + 1)))


SPEC = AttackSpec(
    name="random",
    title="random baseline",
    settings=RandomAttack,
    search=attack,
    variants=lambda settings: ["matched", "unigram", "best_of_n"],
    prefers=("best_of_n",),
    flips=lambda settings: settings.flips,
    cost=_cost,
    sentence=lambda settings: f"random flips ({settings.flips}) and the best of many draws at HotFlip's budget",
    reads=("hotflip",),
    on_pairs=True,
)
