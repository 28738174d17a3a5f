"""From a test to a word: effect, opposite, no effect, or not enough data to tell."""

from __future__ import annotations

import numpy as np

from isotone.records import Json
from isotone.statistics import components
from isotone.statistics.planning import paired_power, smallest_size, two_way_power

EFFECT, OPPOSITE, NO_EFFECT, UNDERPOWERED = "effect", "opposite", "no_effect", "underpowered"


def verdict(value: float, interval: list[float] | None, p: float, *, confidence: float, smallest_effect: float) -> str:
    """What the data allow one to say of a robustness gain.

    Args:
        value, interval: nats; positive means more robust.
        p: adjusted for all primary comparisons.
        smallest_effect: gains inside plus or minus this do not matter.

    Returns:
        ``no_effect`` where the whole interval lies inside the smallest effect, be it
        significant or not; ``effect`` or ``opposite`` where p is below 1 - confidence
        and the interval agrees; else ``underpowered``.
    """
    if interval is None:
        return UNDERPOWERED
    low, high = interval
    if -smallest_effect < low and high < smallest_effect:
        return NO_EFFECT
    if p < 1 - confidence and low > 0:
        return EFFECT
    if p < 1 - confidence and high < 0:
        return OPPOSITE
    return UNDERPOWERED


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
