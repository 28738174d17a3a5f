"""Settings of what a healthy run looks like."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.config.schema import setting
from isotone.errors import ConfigurationError

MEASURES = ["throughput", "memory", "utilisation", "loss_decreasing"]


@dataclass(frozen=True)
class Criterion:
    """One expectation of a run, judged while it trains."""

    measure: str = setting(
        description="throughput: at least so many tokens/s; memory: at most so many GiB; utilisation: GPUs at least so "
        "many percent busy; loss_decreasing: fallen by at least so many nats since the first steps",
        enum=MEASURES,
    )
    limit: float = setting(0.0, "the floor, or for memory the ceiling", minimum=0)
    by_step: int = setting(50, "judged from this step on (loss_decreasing: at it)", minimum=10)
    action: str = setting("flag", "flag: say so in status and report; halt: also stop the run", enum=["flag", "halt"])

    def __post_init__(self) -> None:
        if self.measure != "loss_decreasing" and self.limit == 0:
            raise ConfigurationError(f"operation.criteria: {self.measure} needs a limit above 0. Add it.")
