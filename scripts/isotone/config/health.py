"""Settings of what a healthy run looks like."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.errors import ConfigurationError
from isotone.schema import setting, suggestion

NAMED = ("throughput", "memory", "utilisation", "loss_decreasing")  # with `limit`
COLUMNS = (  # of history.csv, with `min` and `max`
    "loss",
    "validation_loss",
    "learning_rate",
    "grad_norm_constrained",
    "grad_norm_matrices",
    "grad_norm_vectors",
    "tokens_per_second",
    "fetch_seconds",
    "memory_allocated",
    "memory_reserved",
    "rss",
    "free_disk",
    "stall_seconds",
)


@dataclass(frozen=True)
class Criterion:
    """One expectation of a run, judged while it trains."""

    measure: str = setting(
        description="throughput: at least `limit` tokens/s; memory: at most `limit` GiB; utilisation: GPUs at least "
        "`limit` percent busy, and watched at all; loss_decreasing: fallen by at least `limit` nats since the first "
        "steps; or a column of history.csv such as fetch_seconds or rss, with `min` and `max`",
    )
    limit: float = setting(0.0, "of the four named measures: the floor, or for memory the ceiling", minimum=0)
    min: float | None = setting(None, "of a column: its median over 20 steps must not fall below this")
    max: float | None = setting(None, "of a column: its median over 20 steps must not rise above this")
    change: bool = setting(
        False, "of a column: judge by how much it has risen since `by_step` (memory that grows, a loss that drifts)"
    )
    by_step: int = setting(50, "judged from this step on (loss_decreasing: at it)", minimum=10)
    action: str = setting("flag", "flag: say so in status and report; halt: also stop the run", enum=["flag", "halt"])

    def __post_init__(self) -> None:
        bounds = self.min is not None or self.max is not None
        if self.measure in NAMED:
            if bounds or self.change:
                raise ConfigurationError(
                    f"operation.criteria: {self.measure} is judged by its limit; min, max and change are for columns of "
                    "history.csv. Name a column, or give a limit instead."
                )
            if self.measure != "loss_decreasing" and self.limit == 0:
                raise ConfigurationError(f"operation.criteria: {self.measure} needs a limit above 0. Add it.")
        elif self.measure not in COLUMNS:
            raise ConfigurationError(
                f'operation.criteria: nothing measures "{self.measure}".{suggestion(self.measure, [*NAMED, *COLUMNS])}'
            )
        elif not bounds or self.limit:
            raise ConfigurationError(f"operation.criteria: {self.measure} needs min or max, and no limit. Correct it.")
