"""How a number is written down: value, unit, n, interval, method and the rows that it rests on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

from isotone.config.report import Report
from isotone.records import Json, digest_of
from isotone.reporting.evidence.expected import Run
from isotone.reporting.evidence.read import Evidence
from isotone.statistics.estimate import Estimate

DIGITS = 10  # significant digits kept: the last bits of a sum depend on the linear algebra library


class Draw(TypedDict):
    """Options that all bootstraps of a study share."""

    confidence: float
    resamples: int
    seed: int


def draw_of(report: Report) -> Draw:
    """The bootstrap options of a study's settings."""
    return {"confidence": report.confidence, "resamples": report.resamples, "seed": report.seed}


def rounded(value: float) -> float:
    """``value`` to ten significant digits, so that digests do not hang on the last bits."""
    if not math.isfinite(value):
        raise ValueError(f"a result must be a number, not {value}")
    return float(f"{value:.{DIGITS}g}")


def tidy(value: Any) -> Any:
    """The same structure with sorted keys, every float rounded and every numpy scalar plain."""
    if isinstance(value, dict):
        return {str(key): tidy(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [tidy(entry) for entry in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    return rounded(float(value))


class Sources:
    """Which rows files stand behind a number: a digest in the number, the list of files once."""

    def __init__(self, evidence: Evidence) -> None:
        """``evidence`` knows the digest of each rows file."""
        self.evidence = evidence
        self.files: dict[str, str] = {}
        self.groups: dict[str, list[str]] = {}

    def _group(self, entries: list[tuple[str, str]]) -> str:
        self.files.update(entries)
        key = digest_of(sorted(entries))[:16]
        self.groups[key] = sorted(path for path, _ in entries)
        return key

    def attack(self, runs: Sequence[Run], attack: str) -> str:
        """Key of the attack rows of some runs."""
        tables = self.evidence.attacks
        return self._group(
            [(f"{run.folder}/attacks/{attack}.jsonl", next(iter(tables[run][attack].values())).digest) for run in runs]
        )

    def clean(self, runs: Sequence[Run]) -> str:
        """Key of the perplexity rows of some runs."""
        tables = self.evidence.clean
        return self._group(
            [(f"{run.folder}/perplexity.jsonl", next(iter(tables[run].values())).digest) for run in runs]
        )

    def written(self, runs: Sequence[Run]) -> str:
        """Key of the outputs of some runs."""
        tables = self.evidence.written
        return self._group([(f"{run.folder}/generation.jsonl", tables[run]["model"].digest) for run in runs])

    def after(self, runs: Sequence[Run], attack: str) -> str:
        """Key of the outputs of some runs after an attack."""
        tables = self.evidence.after
        return self._group(
            [(f"{run.folder}/generation_after/{attack}.jsonl", tables[run][attack].digest) for run in runs]
        )

    def other(self, entries: list[tuple[str, str]]) -> str:
        """Key of other files, given with their digests."""
        return self._group(entries)


def number(estimate: Estimate, unit: str, rows: str, **more: Any) -> Json:
    """One number of final_results.json.

    Args:
        rows: a key from `Sources`.
        more: further facts, such as ``seeds`` or ``protocol``.
    """
    interval = None if estimate.low is None or estimate.high is None else [estimate.low, estimate.high]
    return {
        "value": estimate.value,
        "unit": unit,
        "n": estimate.n,
        "interval": interval,
        "method": estimate.method,
        "rows": rows,
        **more,
    }
