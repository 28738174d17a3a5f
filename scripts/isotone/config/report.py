"""Settings of statistics and of the report."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.config.schema import setting


@dataclass(frozen=True)
class Report:
    """How results are summarised."""

    reference: str = setting("baseline", "the arm that others are compared with")
    confidence: float = setting(0.95, "level of intervals", exclusiveMinimum=0, exclusiveMaximum=1)
    resamples: int = setting(10_000, "bootstrap resamples", minimum=100)
    seed: int = setting(0, "bootstrap and permutation draws")
    thresholds: list[float] = setting([0.05, 0.1, 0.2, 0.5, 1.0, 2.0], "nats above which a document counts as broken", minItems=1)
    title: str = setting("", "title of the report; empty: the study's name")
