"""One run of the tiny study: its starts, its state folder, its result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from isotone.records import file_digest
from isotone.schema import merge

from tests.resume.forks import Fault, Start
from tests.resume.tiny import CONSTRAINED, Study

STEPS = 12


def weights(place: Path) -> str:
    """SHA-256 of the exported weights, which is also what the marker says."""
    digest = file_digest(place / "model" / "model.safetensors")
    assert digest == json.loads((place / "train.json").read_text())["result"]["weights_sha256"]
    return digest


class Case:
    """Starts of one run; constrained unless the settings say otherwise."""

    def __init__(
        self, study: Study, place: Path, settings: dict[str, Any] | None = None, operation: dict[str, Any] | None = None
    ) -> None:
        """Results and state go below ``place``."""
        self.study, self.place = study, place
        self.settings = merge({"constraint": CONSTRAINED}, settings or {})
        self.operation = operation or {}
        self.log = place / "log.txt"

    def start(
        self,
        *,
        fault: Fault | None = None,
        variables: dict[str, str] | None = None,
        limits: dict[str, int] | None = None,
        settings: dict[str, Any] | None = None,
        operation: dict[str, Any] | None = None,
        log: str = "log.txt",
        **options: Any,
    ) -> Start:
        """Start the program once."""
        words = self.study.arguments(
            self.place, merge(self.settings, settings or {}), merge(self.operation, operation or {}), **options
        )
        return Start(words, self.place / log, fault=fault, variables=variables, limits=limits)

    def text(self) -> str:
        """What all starts said."""
        return self.log.read_text() if self.log.exists() else ""

    @property
    def state(self) -> Path:
        """The state folder."""
        found = [path for path in (self.place / "state").iterdir() if path.is_dir()]
        assert len(found) == 1, found
        return found[0]

    @property
    def checkpoints(self) -> Path:
        """The checkpoints of the newest generation."""
        return max(self.state.glob("checkpoints.g*"))

    def steps(self) -> list[int]:
        """Steps with a checkpoint."""
        if not list((self.place / "state").glob("*/checkpoints.g*")):
            return []
        return sorted(int(path.name[5:]) for path in self.checkpoints.glob("step-*"))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Events of one kind."""
        path = self.state / "events.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if row["event"] == kind]

    def outcome(self) -> dict[str, Any]:
        """How the last start ended."""
        return json.loads((self.state / "outcome.json").read_text())

    def result(self) -> dict[str, Any]:
        """The marker's result."""
        return json.loads((self.place / "train.json").read_text())["result"]

    def history(self) -> pd.DataFrame:
        """The exported history."""
        return pd.read_csv(self.place / "history.csv")
