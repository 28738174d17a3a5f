"""What happens at which step: pure functions of the settings and the step number."""

from __future__ import annotations

import math
from dataclasses import dataclass

from isotone.config.training import Training


@dataclass(frozen=True)
class Schedule:
    """The steps of one run.

    A step is counted when it is done: ``is_epoch_end(3)`` asks about the state after
    three optimizer steps.

    Attributes:
        blocks: training blocks, N.
    """

    training: Training
    blocks: int

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run: ``ceil(epochs x N / global_batch)``, or ``max_steps``."""
        wanted = math.ceil(self.training.epochs * self.blocks / self.training.global_batch - 1e-9)
        return max(1, min(wanted, self.training.max_steps or wanted))

    @property
    def epochs(self) -> int:
        """Epochs that the run touches, the last one perhaps in part."""
        return (
            max(1, math.ceil(self.steps * self.training.global_batch / self.blocks - 1e-9))
            if self.training.max_steps
            else max(1, math.ceil(self.training.epochs - 1e-9))
        )

    def epochs_done(self, step: int) -> int:
        """Full passes over the data after ``step`` steps; all epochs at the end."""
        return self.epochs if step >= self.steps else step * self.training.global_batch // self.blocks

    def is_epoch_end(self, step: int) -> bool:
        """Whether epoch k ends here: the first step with k x N samples, or the end of the run."""
        if step >= self.steps:
            return step == self.steps
        return self.epochs_done(step) > self.epochs_done(step - 1) if step > 0 else False

    def is_anchor(self, step: int) -> bool:
        """Whether a roll-back may return here: fixed multiples, never a timed save."""
        return step > 0 and step % self.training.faults.roll_back_every == 0

    @property
    def milestones(self) -> dict[float, int]:
        """Share of the run to step, for each snapshot that is kept to the end."""
        return {share: min(self.steps, max(1, round(share * self.steps))) for share in self.training.milestones}

    def learning_rate(self, step: int) -> float:
        """Learning rate of the update that follows ``step`` steps."""
        peak, steps = self.training.learning_rate, self.steps
        warm = round(self.training.warm_up * steps)
        if step < warm:
            return peak * (step + 1) / warm
        held = warm + round(self.training.hold * steps)
        if step < held:
            return peak
        share = (step - held) / max(1, steps - held)
        if self.training.schedule == "linear":
            return peak * (1 - share)
        if self.training.schedule == "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * share))
        return peak
