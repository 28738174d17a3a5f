"""Judges a run while it trains: is it as fast, as small and as useful as the study expects?"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from isotone.config.health import NAMED, Criterion
from isotone.records import Json, read_json, write_json
from isotone.training.observer import Observer
from isotone.training.state import TrainerState
from isotone.training.supervision.outcome import HALT
from isotone.training.telemetry.reading import read_history

WINDOW = 20  # steps whose median is judged: single slow steps (a save, a validation) are no breach
ENOUGH = 10  # of them say something
SPARSE = ("validation_loss",)  # known at epoch ends only: the last value is judged
UNWATCHED = 120.0  # seconds without a reading of the GPUs after which a criterion on them is broken


def read_flags(folder: Path) -> list[str]:
    """Criteria that the run of a state folder broke, in words."""
    with contextlib.suppress(Exception):
        return [str(flag) for flag in read_json(Path(folder) / "flags.json")["flags"]]
    return []


class Judge(Observer):
    """Looks at every row of the history; what it finds stands in ``flags.json``, once per criterion."""

    def __init__(
        self,
        criteria: Sequence[Criterion],
        folder: Path,
        event: Callable[..., None],
        utilisation: Callable[[], float | None],
    ) -> None:
        """Remember what earlier starts of this run were flagged for.

        Args:
            utilisation: mean of the GPUs in percent over the last minute, None if nothing was read; asked only if a
                criterion needs it.
        """
        self.criteria, self.folder, self.event, self.utilisation = list(criteria), Path(folder), event, utilisation
        self.flags = read_flags(self.folder)
        self._known = {flag.partition(":")[0] for flag in self.flags}
        self._begun = time.monotonic()
        self._forget()

    def _forget(self) -> None:
        self._recent: dict[str, deque[float]] = {}
        self._first: list[float] = []
        self._base: dict[str, float] = {}

    def on_resume(self, state: TrainerState) -> None:
        """Learn from history.csv what the steps so far were like."""
        self._forget()
        if self.criteria:
            for row in read_history(self.folder / "history.csv"):
                self._note(row)

    def on_row(self, row: Json, state: TrainerState) -> None:
        """Judge one finished step."""
        if not self.criteria:
            return
        if any(criterion.measure == "utilisation" for criterion in self.criteria):
            row = {**row, "utilisation": self.utilisation()}
        self._note(row)
        step = int(row["step"])
        for criterion in self.criteria:
            if step >= criterion.by_step and _label(criterion) not in self._known:
                found = self._named(criterion, row, step) if criterion.measure in NAMED else self._column(criterion)
                if found:
                    self._flag(criterion, step, found)

    def _note(self, row: Mapping[str, Any]) -> None:
        """Take over a row's figures, and what columns were like at `by_step`."""
        for name, value in row.items():
            if value is not None:
                window = self._recent.setdefault(name, deque(maxlen=1 if name in SPARSE else WINDOW))
                window.append(float(value))
        if row.get("loss") is not None and len(self._first) < ENOUGH:
            self._first.append(float(row["loss"]))
        step = int(row.get("step") or 0)
        for criterion in self.criteria:
            window = self._recent.get(criterion.measure, deque())
            if criterion.change and step >= criterion.by_step and window:
                self._base.setdefault(_label(criterion), statistics.median(window))

    def _typical(self, name: str) -> float | None:
        window = self._recent.get(name, deque())
        return statistics.median(window) if len(window) >= (1 if name in SPARSE else ENOUGH) else None

    def _column(self, criterion: Criterion) -> str:
        """What is wrong with a column of history.csv, in words; empty if nothing is."""
        value = self._typical(criterion.measure)
        if value is None:
            return ""
        since = ""
        if criterion.change:
            value, since = value - self._base[_label(criterion)], f" since step {criterion.by_step}"
        if criterion.max is not None and value > criterion.max:
            return f"{value:.4g}{since}, more than {criterion.max:g}"
        if criterion.min is not None and value < criterion.min:
            return f"{value:.4g}{since}, less than {criterion.min:g}"
        return ""

    def _named(self, criterion: Criterion, row: Mapping[str, Any], step: int) -> str:
        """What is wrong with one of the four named measures."""
        if criterion.measure == "memory":
            used = float(row.get("memory_reserved") or row.get("rss") or 0)
            return f"{used / 2**30:.2f} GiB, more than {criterion.limit:g}" if used > criterion.limit * 2**30 else ""
        if criterion.measure == "loss_decreasing":
            recent = list(self._recent.get("loss", ()))[-ENOUGH:]
            if step != criterion.by_step or len(recent) < ENOUGH:
                return ""
            fallen = statistics.mean(self._first) - statistics.mean(recent)
            return f"fallen by {fallen:.4f} nats, less than {criterion.limit:g}" if fallen <= criterion.limit else ""
        if criterion.measure == "utilisation" and row["utilisation"] is None:
            unwatched = time.monotonic() - self._begun > UNWATCHED
            return f"no reading of any GPU for {UNWATCHED:.0f} s" if unwatched else ""
        column, unit = {"throughput": ("tokens_per_second", "tokens/s"), "utilisation": ("utilisation", "percent")}[
            criterion.measure
        ]
        typical = self._typical(column)
        if typical is None or typical >= criterion.limit:
            return ""
        return f"{typical:.4g} {unit}, less than {criterion.limit:g}"

    def _flag(self, criterion: Criterion, step: int, found: str) -> None:
        self._known.add(_label(criterion))
        self.flags.append(f"{_label(criterion)}: {found} (step {step})")
        self.event("criterion", measure=criterion.measure, step=step, found=found, action=criterion.action)
        with contextlib.suppress(OSError):
            write_json(self.folder / "flags.json", {"flags": self.flags})
            if criterion.action == "halt":
                (self.folder / HALT).write_text(f"{self.flags[-1]}\n", encoding="utf-8")


def _label(criterion: Criterion) -> str:
    return f"{criterion.measure} change" if criterion.change else criterion.measure
