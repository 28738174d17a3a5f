"""What happened to a run, line by line: ``events.jsonl``."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isotone.training.telemetry.rotation import Rotated

LIMIT = 4 << 20  # bytes; some 25,000 events
ALOUD = ("alarm", "damaged", "out_of_memory", "skip", "roll_back", "criterion", "advice", "adopted", "left_behind")


def say(message: str) -> None:
    """One line to stderr, with the time."""
    print(f"{datetime.now(UTC):%H:%M:%S} {message}", file=sys.stderr, flush=True)


class Events:
    """``events.jsonl`` and the program's own log, line by line, stamped in UTC."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        """Append to what earlier starts left; other ranks than the first only speak to stderr."""
        self.path = Path(folder) / "events.jsonl"
        self.rank = rank
        self._file = Rotated(self.path, LIMIT)

    def __call__(self, kind: str, **facts: Any) -> None:
        """Record one event; alarms are said aloud too."""
        if kind in ALOUD:
            say(f"{kind}: {json.dumps(facts, default=str, ensure_ascii=False)}")
        if self.rank:
            return
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._file.append(json.dumps({"time": stamp, "event": kind, "pid": os.getpid(), **facts}, default=str))
