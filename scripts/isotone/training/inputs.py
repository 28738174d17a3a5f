"""What one start of the training program is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from isotone.config.training import Operation, TrainJob
from isotone.training.identity import Identity


@dataclass(frozen=True)
class Outputs:
    """Where the results of a run go."""

    model: Path
    history: Path
    certificate: Path
    marker: Path


@dataclass(frozen=True)
class Run:
    """One start.

    Attributes:
        folder: the state folder of this identity.
        study_folder: ``results/<study>``, where a HALT stops every run.
        name: of the run, such as ``baseline/seed-42``.
        start, train, validation, teacher: input folders.
        log: of this start, in the state folder.
        max_epochs: epochs after which to stop with 75; 0: none.
    """

    job: TrainJob
    operation: Operation
    identity: Identity
    folder: Path
    study_folder: Path
    name: str
    start: Path
    train: Path
    validation: Path
    teacher: Path | None
    outputs: Outputs
    max_epochs: int = 0
    log: Path | None = None
