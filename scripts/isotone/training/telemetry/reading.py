"""Reading the history that a run leaves; no torch."""

from __future__ import annotations

import csv
import math
from pathlib import Path


def number(text: str | None) -> float | None:
    """A cell as a number; None if it is empty or not finite."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read_history(path: Path) -> list[dict[str, float | None]]:
    """The rows of a history.csv; a cut-off last line is left out, a missing file has no rows."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            width = len(reader.fieldnames or [])
            rows = [row for row in reader if None not in row.values() and len(row) == width]
    except OSError:
        return []
    return [{key: number(value) for key, value in row.items()} for row in rows]
