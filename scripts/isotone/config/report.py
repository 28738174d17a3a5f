"""Settings of statistics and of the report."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.schema import setting


@dataclass(frozen=True)
class Report:
    """How results are summarised."""

    baseline: str = setting("baseline", "the arm that others are compared with")
    confidence: float = setting(0.95, "level of intervals", exclusiveMinimum=0, exclusiveMaximum=1)
    resamples: int = setting(10_000, "bootstrap resamples", minimum=100)
    seed: int = setting(0, "bootstrap and permutation draws", minimum=0)
    smallest_effect: float = setting(
        1.0,
        "nats of damage per changed token: differences inside plus or minus this do not matter",
        exclusiveMinimum=0,
    )
    smallest_change: float = setting(
        0.25,
        "changed predictions per changed token: differences inside plus or minus this do not matter",
        exclusiveMinimum=0,
    )
    mismatch: float = setting(
        0.05,
        "nats per token: a control whose clean loss on the attacked text is farther from the arm's is shown and not counted",
        exclusiveMinimum=0,
    )
    power: float = setting(0.8, "power for which sample sizes are planned", exclusiveMinimum=0, exclusiveMaximum=1)
    thresholds: list[float] = setting(
        [0.05, 0.1, 0.2, 0.5, 1.0, 2.0],
        "nats above which a document counts as broken",
        items={"exclusiveMinimum": 0},
        minItems=1,
        uniqueItems=True,
    )
    examples: int = setting(2, "attacked documents shown per arm and attack", minimum=0)
    title: str = setting("", "title of the report; empty: the study's name")
