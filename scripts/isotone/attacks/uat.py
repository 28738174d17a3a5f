"""Universal adversarial triggers: one token sequence in front of every text.

Source: Wallace et al. 2019 (arXiv:1908.07125). The search is in `trigger`, its rows in `universal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from isotone.attacks.spec import AttackSpec, Cost, Effort
from isotone.schema import setting

if TYPE_CHECKING:
    from isotone.attacks.shared import AttackDocuments


@dataclass(frozen=True)
class UniversalTrigger:
    """One trigger for all documents; found on one set, measured on another."""

    length: int = setting(3, "trigger tokens", minimum=1)
    restarts: int = setting(2, "independent searches", minimum=1)
    iterations: int = setting(12, "coordinate steps per restart", minimum=1)
    candidates: int = setting(8, "proposals scored exactly per step", minimum=1)
    batch: int = setting(4, "search documents per step; four times as many confirm a change", minimum=1)


def trigger(settings: UniversalTrigger) -> Effort:
    """The budget of the search."""
    return Effort(settings.length, settings.restarts, settings.iterations, settings.candidates, settings.batch)


def trigger_cost(effort: Effort, shared: AttackDocuments) -> Cost:
    """Tokens of a search for a trigger, and of its measurement on the test documents."""
    length = shared.window + 1 + effort.length
    search = effort.restarts * effort.iterations * effort.batch * length
    return Cost(float(search * (1 + effort.candidates) + shared.documents * 2 * length), float(search))


SPEC = AttackSpec(
    name="uat",
    title="universal adversarial triggers",
    settings=UniversalTrigger,
    trigger=trigger,
    variants=lambda settings: ["trigger"],
    prefers=("trigger",),
    restarted=lambda settings: ["trigger"],
    flips=lambda settings: settings.length,
    cost=lambda attacks: trigger_cost(trigger(attacks.uat), attacks.shared),
    sentence=lambda settings: (
        f"universal triggers of {settings.length} tokens, {settings.restarts} restarts of {settings.iterations} steps"
    ),
)
