"""What the verdicts say, in plain words. Headline, sentences and the README's claim come from here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

from isotone.records import Json
from isotone.reporting.analysis.outcomes import CLAIMED, Outcome
from isotone.reporting.analysis.verdicts import (
    ABOVE,
    BELOW,
    CANNOT_TELL,
    DEPENDS,
    DISAGREE,
    EQUIVALENT,
    INSIDE,
    LESS,
    MORE,
    NO_CONTROL,
    OPEN,
    UNEQUAL,
)
from isotone.statistics.estimate import percent

WORDS = {
    MORE: "more robust",
    LESS: "less robust",
    EQUIVALENT: "equivalent",
    DEPENDS: "depends on the control",
    DISAGREE: "the outcomes disagree",
    CANNOT_TELL: "cannot tell",
    UNEQUAL: "not of equal quality",
    NO_CONTROL: "no control of equal quality",
}
SIDES = {ABOVE: "more robust", BELOW: "less robust", INSIDE: "equivalent", OPEN: "cannot tell"}


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def span(number: Json, digits: int = 3) -> str:
    """An interval with its signs."""
    if number["interval"] is None:
        return "no interval"
    return f"{number['interval'][0]:+.{digits}f} to {number['interval'][1]:+.{digits}f}"


def by_verdict(verdict: Json) -> str:
    """``more robust than noised; less robust than tempered and early``: which control says what."""
    groups: dict[str, list[str]] = {}
    for control, word in sorted(verdict["controls"].items()):
        groups.setdefault(word, []).append(control)
    phrases = {
        MORE: "more robust than {}",
        LESS: "less robust than {}",
        EQUIVALENT: "equivalent to {}",
        DISAGREE: "the outcomes disagree against {}",
        CANNOT_TELL: "cannot tell against {}",
        UNEQUAL: "{} not of equal quality and not counted",
    }
    return "; ".join(phrase.format(listed(groups[word])) for word, phrase in phrases.items() if word in groups)


def cells_of(results: Json, verdict: Json) -> list[Json]:
    """The cells behind one verdict."""
    key = verdict["arm"], verdict["attack"]
    return [cell for cell in results["primary"] if (cell["arm"], cell["attack"]) == key]


def headline(verdicts: Sequence[Json]) -> str:
    """The whole study in one sentence."""
    if not verdicts or all(entry["word"] == NO_CONTROL for entry in verdicts):
        return "This study has no control of equal quality, so it makes no claim of robustness."
    parts = []
    for state, word in WORDS.items():
        found = [entry for entry in verdicts if entry["word"] == state]
        names = [f"{entry['arm']} ({entry['attack']}{_which(entry)})" for entry in found]
        parts += [f"{word}: {', '.join(names)}"] if names else []
    return f"Compared with controls of equal clean loss, {'; '.join(parts)}."


def _which(entry: Json) -> str:
    return f": {by_verdict(entry)}" if entry["word"] == DEPENDS else ""


def _units(cell: Json) -> str:
    difference = cell["outcomes"][CLAIMED[0].column]["difference"]
    seeds, documents = difference["seeds"], difference["documents"]
    if seeds > 1:
        return f"{seeds} seeds x {documents} documents"
    return f"one training run, {documents} documents: nothing is said about other seeds"


def _amount(outcome: Outcome, entry: Json) -> str:
    """``0.42 more changed predictions per flip (interval)``: what the arm has more or less of than the control."""
    difference = entry["difference"]
    more = "fewer" if outcome.unit.startswith("predictions") else "less"
    if difference["value"] < 0:
        more = "more"
    return f"{abs(difference['value']):.2f} {more} {outcome.words} ({span(difference, 2)})"


def control_sentence(cell: Json) -> str:
    """One control: both outcomes with their intervals, the adjusted p, the mismatch."""
    amounts = ", ".join(_amount(outcome, cell["outcomes"][outcome.column]) for outcome in CLAIMED)
    p = "" if cell["p_adjusted"] is None else f"; adjusted p = {cell['p_adjusted']:.3g}"
    return (
        f"against {cell['control']}, {WORDS[cell['verdict']]}: per changed token {amounts}{p}; "
        f"clean loss {cell['mismatch']['value']:+z.3f} nats per token from the arm's"
    )


def needed(cells: Sequence[Json], settings: Json) -> str:
    """How much more data would tell, from the spreads of these; empty where nothing is left open."""
    report = settings["report"]
    plans = [
        entry["plan"]
        for cell in cells
        if cell["verdict"] == CANNOT_TELL
        for entry in cell["outcomes"].values()
        if entry["side"] == OPEN
    ]
    if not plans:
        return ""
    have = cells[0]["outcomes"][CLAIMED[0].column]["difference"]
    size = listed([f"{report[outcome.margin]:g} {outcome.unit}" for outcome in CLAIMED])
    start = f"Detecting {size} with {100 * report['power']:g} % power needs"
    documents, seeds = ([plan[key] for plan in plans] for key in ("documents", "seeds"))
    ways = []
    if all(documents):
        ways.append(f"about {max(documents)} documents with {have['seeds']} seeds")
    if all(seeds):
        ways.append(f"about {max(seeds)} seeds on {have['documents']} documents")
    return f"{start} {' or '.join(ways)}." if ways else f"{start} more seeds: no number of documents alone is enough."


def verdict_sentence(verdict: Json, cells: Sequence[Json], settings: Json) -> str:
    """One arm under one attack: the word, who says what, and the figures behind it."""
    start = f"{verdict['arm']} under {verdict['attack']}"
    missing = "; ".join(f"{name}: {reason}" for name, reason in sorted(verdict["unavailable"].items()))
    tail = f" Not made: {missing}." if missing else ""
    if verdict["word"] == NO_CONTROL:
        why = "only a temperature was tried, which changes no prediction" if cells else "no control of equal quality"
        return f"{start}: no claim ({why}).{tail}"
    opening = {
        MORE: "more robust than every control of equal quality",
        LESS: "less robust than every control of equal quality",
        EQUIVALENT: "equivalent to every control of equal quality, within "
        + " and ".join(f"{settings['report'][outcome.margin]:g} {outcome.unit}" for outcome in CLAIMED),
        DEPENDS: "depends on the control",
        DISAGREE: "the outcomes disagree",
        CANNOT_TELL: "these data cannot tell",
    }[verdict["word"]]
    which = f" ({by_verdict(verdict)})"
    level = percent(settings["report"]["confidence"])
    facts = "; ".join(control_sentence(cell) for cell in cells)
    more = needed(cells, settings)
    text = f"{start}: {opening}{which}. {facts[0].upper()}{facts[1:]} ({level} intervals; {_units(cells[0])})."
    return " ".join(part for part in (text, more) if part) + tail
