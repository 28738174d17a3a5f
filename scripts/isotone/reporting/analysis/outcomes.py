"""What an attack did to a document, in units that neither a window nor a temperature moves.

J is a mean over the window: 87 % of it comes from the five tokens behind each change, so twice the
window halves it. The sums here are over all unchanged tokens, divided by the number of changed ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from isotone.config.report import Report


@dataclass(frozen=True)
class Outcome:
    """One measure of damage per document; more of it is worse.

    Attributes:
        column: its name in the rows read (`rows.derived`).
        unit: what one counts.
        title: for a heading; ``words``: what there is more of, in a sentence.
        margin: the setting of `Report` below which a difference does not matter.
    """

    column: str
    unit: str
    title: str
    words: str
    margin: str


# A claim needs both: neither can be moved by a temperature.
PREDICTIONS = Outcome(
    "changed_predictions", "predictions/flip", "changed predictions per flip", "changed predictions", "smallest_change"
)
DAMAGE = Outcome("damage_cal", "nats/flip", "damage per flip, recalibrated", "damage in nats", "smallest_effect")
CLAIMED = (PREDICTIONS, DAMAGE)


def margins(report: Report) -> dict[str, float]:
    """The difference that matters, in the unit of each outcome that a claim needs."""
    return {PREDICTIONS.column: report.smallest_change, DAMAGE.column: report.smallest_effect}


# Printed beside them, never claimed.
BESIDE = {
    "accuracy_lost": "hits/flip",
    "near_cal": "nats/flip",
    "far_cal": "nats/flip",
    "damage": "nats/flip",
    "near": "nats/flip",
    "far": "nats/flip",
    "J_cal": "nats/token",
    "J": "nats/token",
}
