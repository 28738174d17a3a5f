"""Which arm of a sweep wins: the rule, apart from files and programs.

The rule is fixed before anything is measured: among arms whose perplexity ratio is at most
the ceiling, the one with the largest excess robustness over its controls. Everything is
measured on validation text. If no arm is under the ceiling, none wins; the ceiling stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Measured:
    """One arm on validation text; lists hold one value per seed, in the same order.

    Attributes:
        nll: nats per token.
        baseline_nll: the same of the reference arm.
        damage: J of the attack, mean nats over documents.
        controls: by kind, J of the control of equal loss; a kind that has no control is left out.
    """

    arm: str
    nll: Sequence[float]
    baseline_nll: Sequence[float]
    damage: Sequence[float]
    controls: Mapping[str, Sequence[float]]

    @property
    def ratio(self) -> float:
        """Perplexity over the reference's, as the geometric mean over seeds."""
        differences = [own - other for own, other in zip(self.nll, self.baseline_nll, strict=True)]
        return math.exp(fmean(differences))

    @property
    def excess(self) -> float | None:
        """Nats by which the least damaged control is still hurt more than the arm; None without controls."""
        if not self.controls:
            return None
        return min(fmean(values) for values in self.controls.values()) - fmean(self.damage)


def choose(measured: Sequence[Measured], ceiling: float) -> Measured | None:
    """The winner: the largest excess among arms with ratio <= ceiling; None if there is no such arm.

    Arms without any control cannot win, since nothing tells their robustness from that of a worse model.
    Ties go to the smaller ratio, then to the name.
    """
    fit = [arm for arm in measured if arm.ratio <= ceiling and arm.excess is not None]
    return min(fit, key=lambda arm: (-(arm.excess or 0.0), arm.ratio, arm.arm), default=None)
