"""Natural noise at a fixed rate: typing errors, case, word order, spaces. No search, no gradient, no intent.

The text is decoded, disturbed word by word, and encoded again. Tokens that stand in both
versions, in order, are the unchanged ones (longest matching blocks); J is the mean rise of
their loss, as for every attack. The rest are the changes.
"""

# Shape suffixes: T = tokens of the clean text, N = tokens of the noisy one, M = tokens that stand in both.

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isotone.attacks.objective import check_numbers
from isotone.attacks.spec import AttackSpec, Cost
from isotone.errors import ConfigurationError
from isotone.evaluation.streams import stream
from isotone.schema import setting

if TYPE_CHECKING:
    from isotone.attacks.context import Context
    from isotone.attacks.documents import Document
    from isotone.attacks.settings import Attacks
    from isotone.records import Json

KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # neighbours on a row of the keyboard


@dataclass(frozen=True)
class Noise:
    """What a careless writer does to a text."""

    rate: float = setting(0.1, "share of the words that are disturbed", exclusiveMinimum=0, maximum=1)


def neighbour(letter: str, generator: np.random.Generator) -> str:
    """A key beside this one; the letter itself where it is no letter of the keyboard."""
    for row in KEYS:
        place = row.find(letter.lower())
        if place >= 0:
            other = row[place - 1] if place and (place == len(row) - 1 or generator.integers(2)) else row[place + 1]
            return other.upper() if letter.isupper() else other
    return letter


def mistype(word: str, generator: np.random.Generator) -> str:
    """One typing error inside a word: two letters change places, one is lost, doubled, or hits the key beside it."""
    letters = [place for place, letter in enumerate(word) if letter.isalpha()]
    if len(letters) < 3:
        return word
    place, kind = int(generator.choice(letters[:-1])), int(generator.integers(4))
    if kind == 0:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    middle = ("", word[place] * 2, neighbour(word[place], generator))[kind - 1]
    return word[:place] + middle + word[place + 1 :]


def _each(change: Callable[[str, np.random.Generator], str]) -> Callable[[list[str], float, np.random.Generator], str]:
    def disturb(words: list[str], rate: float, generator: np.random.Generator) -> str:
        chosen = generator.random(len(words)) < rate
        return " ".join(change(word, generator) if hit else word for word, hit in zip(words, chosen, strict=True))

    return disturb


def _order(words: list[str], rate: float, generator: np.random.Generator) -> str:
    words = list(words)
    for place in np.flatnonzero(generator.random(max(len(words) - 1, 0)) < rate / 2):  # each swap moves two words
        words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words)


def _spaces(words: list[str], rate: float, generator: np.random.Generator) -> str:
    gaps = np.where(generator.random(len(words)) < rate, generator.integers(2, size=len(words)) * 2, 1)
    return "".join(word + " " * gap for word, gap in zip(words, gaps.tolist(), strict=True)).rstrip(" ")


KINDS: dict[str, Callable[[list[str], float, np.random.Generator], str]] = {
    "typos": _each(mistype),
    "case": _each(lambda word, _: word.swapcase()),
    "order": _order,
    "whitespace": _spaces,
}


def disturbed(text: str, kind: str, rate: float, generator: np.random.Generator) -> str:
    """The text with noise of one kind; words are what single spaces separate."""
    return KINDS[kind](text.split(" "), rate, generator)


def matched(clean_T: np.ndarray, noisy_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, int, int]]]:
    """Places of the tokens that stand in both texts, in order, ``(in clean, in noisy)``, and the spans that differ."""
    matcher = difflib.SequenceMatcher(None, clean_T.tolist(), noisy_N.tolist(), autojunk=False)
    pairs = [(a + i, b + i) for a, b, size in matcher.get_matching_blocks() for i in range(size)]
    spans = [(a, b, c, d) for tag, a, b, c, d in matcher.get_opcodes() if tag != "equal"]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return first, second, spans


def row_of(context: Context, document: Document, kind: str) -> Json:
    """One row of schema ``attack/1``; without a curve, agreement and divergence, for which texts would have to align."""
    from isotone.attacks.measure import distance_profile

    objective, tokenizer, pieces = context.objective, context.codec, context.vocabulary.pieces
    if tokenizer is None:
        raise ConfigurationError("Noise is written as text: give `Context` the model's tokenizer as `codec`.")
    generator = stream(context.seed, f"noise/{kind}", document.name)
    text = disturbed(str(tokenizer.decode(document.ids)), kind, context.job.noise.rate, generator)
    room = objective.scorer.context - (objective.scorer.prefix is not None)
    noisy_N = np.array(tokenizer.encode(text, add_special_tokens=False)[:room], np.int64)
    in_clean_M, in_noisy_M, spans = matched(document.ids, noisy_N)
    nll_T, right_T, hot_T = _predicted(context, document.ids)
    nll_N, right_N, hot_N = _predicted(context, noisy_N)
    check_numbers(nll_N[None], [document.name])
    first = objective.scored.start
    scored = (in_clean_M >= first) & (in_noisy_M >= first)
    in_clean_M, in_noisy_M = in_clean_M[scored], in_noisy_M[scored]
    kept_N = np.zeros(len(noisy_N), bool)
    kept_N[in_noisy_M] = True

    def harm(before_T: np.ndarray, after_N: np.ndarray) -> Json:
        rise_N = np.zeros(len(noisy_N))
        rise_N[in_noisy_M] = after_N[in_noisy_M] - before_T[in_clean_M]
        return {
            "J": float(rise_N[in_noisy_M].mean()) if len(in_noisy_M) else 0.0,
            "clean_nll": float(before_T[first:].mean()),
            "distance": distance_profile(rise_N, ~kept_N & (np.arange(len(noisy_N)) >= first), kept_N),
        }

    result = harm(nll_T, nll_N)
    total = float(nll_N[first:].mean()) - result["clean_nll"]
    own = float(nll_N[~kept_N].mean()) if (~kept_N).any() else 0.0
    if hot_T is not None and hot_N is not None:
        result["calibrated"] = {"temperature": objective.temperature, **harm(hot_T, hot_N)}
    return {
        "attack": "noise",
        "variant": kind,
        "document": document.name,
        "tokens": len(document.ids) - first,
        "window": len(document.ids),
        **result,
        "self": own,
        "total": total,
        "clean_accuracy": float(right_T[in_clean_M].mean()) if len(in_clean_M) else 0.0,
        "accuracy": float(right_N[in_noisy_M].mean()) if len(in_noisy_M) else 0.0,
        "published_degradation": total / result["clean_nll"],
        "published_success": bool(total / result["clean_nll"] > objective.success),
        "flips": [
            {
                "position": a,
                "old": document.ids[a:b].tolist(),
                "new": noisy_N[c:d].tolist(),
                "old_text": "".join(pieces[token] for token in document.ids[a:b]),
                "new_text": "".join(pieces[token] for token in noisy_N[c:d]),
            }
            for a, b, c, d in spans
        ],
        "predicted": [],
        "exact": [],
        "ledger": {
            "forward_tokens": objective.tokens(len(document.ids)) + objective.tokens(len(noisy_N)),
            "backward_tokens": 0,
            "candidates": 1,
        },
        "context": [pieces[token] for token in document.ids],
    }


def _predicted(context: Context, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Losses, whether each token is ranked first, and losses at the model's own best temperature, if there is one."""
    import torch

    objective, text = context.objective, torch.from_numpy(ids)
    found = objective.scorer.compare(text, text, objective.temperature or 1.0)
    hot = found.nll_before.double().numpy() if objective.temperature is not None else None
    return objective.scores(ids[None])[0], found.right_before.numpy(), hot


def rows(context: Context, documents: Sequence[Document]) -> dict[str, list[Json]]:
    """A row of each kind for each document."""
    return {kind: [row_of(context, document, kind) for document in documents] for kind in KINDS}


def _cost(attacks: Attacks) -> Cost:
    return Cost(float(len(KINDS) * 4 * attacks.shared.documents * (attacks.shared.window + 1)))


SPEC = AttackSpec(
    name="noise",
    title="natural noise",
    settings=Noise,
    rows=rows,
    variants=lambda settings: list(KINDS),
    prefers=tuple(KINDS),
    flips=lambda settings: 1,
    cost=_cost,
    sentence=lambda settings: (
        f"natural noise (typing errors, case, word order, spaces) in {settings.rate:.0%} of the words"
    ),
    curve=False,
)
