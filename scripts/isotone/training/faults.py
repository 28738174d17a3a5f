"""Steps that must not count: NaN, spikes, and the ledger of what was passed over.

All decisions are functions of the global loss and the global gradient norms, so every
process reaches the same one, and so does a run that was killed and resumed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isotone.config.training import Faults
from isotone.errors import Diverged
from isotone.records import Json, read_json, write_json

WINDOW = 32  # accepted steps whose median is the standard
ENOUGH = 8  # fewer say nothing about what is normal


@dataclass
class Guard:
    """Judges steps. Its state travels in the checkpoint."""

    settings: Faults
    losses: list[float] = field(default_factory=list)
    norms: dict[str, list[float]] = field(default_factory=dict)
    in_a_row: int = 0

    def verdict(self, loss: float, norms: Mapping[str, float]) -> str:
        """Why this step must be skipped; empty if it is fine."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        for group, norm in norms.items():
            if not math.isfinite(norm):
                return f"the gradient norm of {group} is {norm}"
        factor = self.settings.spike_factor
        if factor and len(self.losses) >= ENOUGH:
            if loss > factor * statistics.median(self.losses):
                return f"the loss {loss:.4g} is more than {factor:g} times its median"
            for group, norm in norms.items():
                if norm > factor * statistics.median(self.norms[group]):
                    return f"the gradient norm {norm:.4g} of {group} is more than {factor:g} times its median"
        return ""

    def accept(self, loss: float, norms: Mapping[str, float]) -> None:
        """A step was good."""
        self.in_a_row = 0
        self.losses = [*self.losses, loss][-WINDOW:]
        for group, norm in norms.items():
            self.norms[group] = [*self.norms.get(group, []), norm][-WINDOW:]

    def skip(self) -> bool:
        """A step was skipped; True if it is time to roll back."""
        self.in_a_row += 1
        return self.in_a_row >= self.settings.skips

    def state(self) -> Json:
        """Plain data for the checkpoint."""
        return {"losses": self.losses, "norms": self.norms, "in_a_row": self.in_a_row}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over a checkpoint's state."""
        self.losses, self.norms = list(state["losses"]), {key: list(value) for key, value in state["norms"].items()}
        self.in_a_row = int(state["in_a_row"])


class Ledger:
    """Intervals of steps that a roll-back passed over: their blocks are not trained on.

    An entry is ``{"from": a, "to": b, "reason": ...}``: steps a to b - 1 (numbered by
    the state they start from) do nothing.
    """

    def __init__(self, path: Path) -> None:
        """Read what earlier starts wrote."""
        self.path = Path(path)
        self.entries: list[Json] = read_json(self.path)["entries"] if self.path.exists() else []

    def add(self, start: int, end: int, reason: str, faults: Faults, *, write: bool) -> None:
        """Pass over steps ``start .. end - 1`` from now on.

        Args:
            write: whether this process writes the file.

        Raises:
            Diverged: if that was tried often enough.
        """
        if len(self.entries) >= faults.roll_backs:
            raise Diverged(
                f"Training diverged at step {end}: {reason}. After {faults.roll_backs} roll-backs (ledger in {self.path}) "
                "it is not tried again. Lower training.learning_rate, lengthen training.warm_up, or look at the data of "
                "the steps in the ledger."
            )
        self.entries.append({"from": start, "to": end, "reason": reason})
        if write:
            write_json(self.path, {"entries": self.entries})

    def void(self, step: int) -> bool:
        """Whether the step that starts from ``step`` does nothing."""
        return any(entry["from"] <= step < entry["to"] for entry in self.entries)

    def admits(self, step: int, entries_then: int) -> bool:
        """Whether a checkpoint belongs to the history that the ledger tells.

        Args:
            entries_then: how many entries the ledger had when the checkpoint was made.
        """
        return all(step <= entry["from"] for entry in self.entries[entries_then:])
