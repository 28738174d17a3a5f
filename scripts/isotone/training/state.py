"""Where a run stands: the small JSON beside the tensors of a checkpoint."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isotone.records import Json


@dataclass
class TrainerState:
    """Everything about a run that is neither a tensor nor a function of the step.

    Attributes:
        step: optimizer steps done, skipped and passed-over ones included.
        updates: steps that changed the weights.
        micro_batch_size: sequences per forward pass; smaller than the setting after running out of memory.
        best: ``{"step", "loss"}`` of the best validation so far.
        validated: the last step that was validated, with its loss.
        seconds: spent training, over all starts; ``useful`` of them on steps that count.
        row: of the history, for an epoch end that is not validated yet.
        changes: ``{"step", "settings"}`` of each start that went on under other settings of how a step is computed.
        history: bytes of history.csv that belong to this checkpoint.
        ledger: entries of the ledger when it was made.
    """

    step: int = 0
    updates: int = 0
    tokens: int = 0
    micro_batch_size: int = 0
    halvings: int = 0
    best: Json | None = None
    start_loss: float | None = None
    validated: Json | None = None
    seconds: float = 0.0
    useful: float = 0.0
    stall: float = 0.0
    begun: float = field(default_factory=time.time)
    row: Json | None = None
    changes: list[Json] = field(default_factory=list)
    history: int = 0
    ledger: int = 0
    loss_scale: Json = field(default_factory=dict)
    guard: Json = field(default_factory=dict)
    scales: Json = field(default_factory=dict)
    identity: Json = field(default_factory=dict)
    versions: Json = field(default_factory=dict)

    def state(self) -> Json:
        """Plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> TrainerState:
        """Read what `state` wrote; keys of other versions are left out."""
        known = {entry.name for entry in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in state.items() if key in known})
