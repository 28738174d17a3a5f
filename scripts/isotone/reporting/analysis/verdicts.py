"""From intervals to words: one verdict per control, and one word for all of them together.

Everything that a report, a page or the README claims is made from these verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from isotone.records import Json
from isotone.statistics import components
from isotone.statistics.planning import paired_power, smallest_size, two_way_power

MORE, LESS, EQUIVALENT, CANNOT_TELL = "more_robust", "less_robust", "equivalent", "cannot_tell"
DISAGREE = "outcomes_disagree"  # one outcome says more robust where another does not
UNEQUAL = "unequal_quality"  # the control's clean loss is too far from the arm's: shown, not counted
DEPENDS = "depends_on_the_control"
NO_CONTROL = "no_control"
DECIDED = (MORE, LESS, EQUIVALENT, DISAGREE)
TEMPERED = (
    "tempered"  # a temperature changes no prediction, and recalibration takes it back: no claim rests on it alone
)

INSIDE, ABOVE, BELOW, OPEN = "inside", "above", "below", "open"


def side(interval: Sequence[float] | None, margin: float) -> str:
    """Where the interval of one outcome lies: inside the margin, above zero, below it, or open.

    Args:
        interval: control minus arm; positive means that the arm is the more robust.
        margin: differences inside plus or minus this do not matter, be they significant or not.
    """
    if interval is None:
        return OPEN
    low, high = interval
    if -margin < low and high < margin:
        return INSIDE
    return ABOVE if low > 0 else BELOW if high < 0 else OPEN


def joint_p(differences: Sequence[float], p_values: Sequence[float]) -> float:
    """The p of "all outcomes point one way": the largest, since each of them has to; 1 where signs differ.

    Source: Berger 1982, intersection-union tests.
    """
    same = all(value > 0 for value in differences) or all(value < 0 for value in differences)
    return max(p_values) if same else 1.0


def against_one(sides: Sequence[str], p_adjusted: float, alpha: float) -> str:
    """The verdict against one control, from all outcomes that a claim needs."""
    found = set(sides)
    if found == {INSIDE}:
        return EQUIVALENT
    if found == {ABOVE} and p_adjusted < alpha:
        return MORE
    if found == {BELOW} and p_adjusted < alpha:
        return LESS
    if {ABOVE, BELOW} <= found or (OPEN not in found and len(found) > 1):
        return DISAGREE
    return CANNOT_TELL


def over_all(verdicts: Mapping[str, str]) -> str:
    """The one word for an arm under an attack.

    More robust only if it beats every control, less only if it loses to every one, equivalent only
    if all say so. Where two controls say different things, the verdict depends on the control.

    Args:
        verdicts: control to verdict; controls of unequal quality are not counted.
    """
    counted = {control: verdict for control, verdict in verdicts.items() if verdict != UNEQUAL}
    if not set(counted) - {TEMPERED}:
        return NO_CONTROL
    found = set(counted.values())
    if len(found.intersection(DECIDED)) > 1:
        return DEPENDS
    return found.pop() if len(found) == 1 else CANNOT_TELL


def plan(differences_SN: np.ndarray, *, smallest_effect: float, power: float, alpha: float) -> Json:
    """How many documents, or seeds, would show the smallest effect that matters.

    The spreads of the data at hand are taken for true.
    """
    seeds, documents = differences_SN.shape
    if documents < 2:
        return {"documents": None, "seeds": None}
    if seeds < 2:
        spread = float(differences_SN[0].std(ddof=1))
        needed = (
            smallest_size(lambda n: paired_power(smallest_effect, spread, n, alpha=alpha), power) if spread > 0 else 2
        )
        return {"documents": needed, "seeds": None}
    parts = components(differences_SN)

    def reached(seeds: int, documents: int) -> float:
        return two_way_power(
            smallest_effect,
            seeds=seeds,
            documents=documents,
            seed_spread=parts.seed,
            document_spread=parts.document,
            residual_spread=parts.residual,
            alpha=alpha,
        )

    return {
        "documents": smallest_size(lambda n: reached(seeds, n), power),
        "seeds": smallest_size(lambda n: reached(n, documents), power),
        "spread": {"seed": parts.seed, "document": parts.document, "residual": parts.residual},
    }
