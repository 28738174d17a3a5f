"""Judges a run while it trains: is it as fast, as small and as useful as the study expects?"""

from __future__ import annotations

import contextlib
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from isotone.config.health import Criterion
from isotone.records import read_json, write_json
from isotone.training.supervision.outcome import HALT

WINDOW = 20  # steps whose median is judged: single slow steps (a save, a validation) are no breach


class Judge:
    """Looks at every step's row; what it finds stands in ``flags.json``, once per criterion."""

    def __init__(self, criteria: Sequence[Criterion], folder: Path, event: Callable[..., None]) -> None:
        """Remember what earlier starts of this run were flagged for."""
        self.criteria, self.folder, self.event = list(criteria), Path(folder), event
        self._recent: dict[str, deque[float]] = {
            name: deque(maxlen=WINDOW) for name in ("throughput", "utilisation", "loss")
        }
        self._first: list[float] = []
        self.flags: list[str] = []
        with contextlib.suppress(Exception):
            self.flags = list(read_json(self.folder / "flags.json")["flags"])
        self._known = {flag.partition(":")[0] for flag in self.flags}

    def step(self, row: Mapping[str, Any], utilisation: Callable[[], float | None]) -> None:
        """Judge one finished step.

        Args:
            row: of history.csv.
            utilisation: mean of the GPUs in percent, None without one; asked only if a criterion needs it.
        """
        if not self.criteria:
            return
        step = int(row["step"])
        self._note("throughput", row.get("tokens_per_second"))
        if row.get("loss") is not None:
            self._note("loss", row["loss"])
            if len(self._first) < WINDOW // 2:
                self._first.append(float(row["loss"]))
        if any(criterion.measure == "utilisation" for criterion in self.criteria):
            self._note("utilisation", utilisation())
        for criterion in self.criteria:
            if step >= criterion.by_step and criterion.measure not in self._known:
                found = self._breach(criterion, row, step)
                if found:
                    self._flag(criterion, step, found)

    def _note(self, name: str, value: float | None) -> None:
        if value is not None:
            self._recent[name].append(float(value))

    def _breach(self, criterion: Criterion, row: Mapping[str, Any], step: int) -> str:
        """What is wrong, in words; empty if nothing is."""
        if criterion.measure == "memory":
            used = max(
                float(row.get("memory_reserved") or 0),
                float(row.get("rss") or 0) if not row.get("memory_reserved") else 0,
            )
            if used > criterion.limit * 2**30:
                return f"{used / 2**30:.2f} GiB, more than {criterion.limit:g}"
            return ""
        if criterion.measure == "loss_decreasing":
            recent = list(self._recent["loss"])[-(WINDOW // 2) :]
            if step != criterion.by_step or len(recent) < WINDOW // 2:
                return ""
            fallen = statistics.mean(self._first) - statistics.mean(recent)
            return f"fallen by {fallen:.4f} nats, less than {criterion.limit:g}" if fallen <= criterion.limit else ""
        recent = list(self._recent[criterion.measure])
        if len(recent) < WINDOW // 2:
            return ""
        typical = statistics.median(recent)
        unit = "tokens/s" if criterion.measure == "throughput" else "percent"
        return f"{typical:.4g} {unit}, less than {criterion.limit:g}" if typical < criterion.limit else ""

    def _flag(self, criterion: Criterion, step: int, found: str) -> None:
        self._known.add(criterion.measure)
        self.flags.append(f"{criterion.measure}: {found} (step {step})")
        self.event("criterion", measure=criterion.measure, step=step, found=found, action=criterion.action)
        with contextlib.suppress(OSError):
            write_json(self.folder / "flags.json", {"flags": self.flags})
            if criterion.action == "halt":
                (self.folder / HALT).write_text(f"{self.flags[-1]}\n", encoding="utf-8")
