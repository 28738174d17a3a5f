"""What a section found: rows of a table, written as they come, so that a section cut short keeps what it had."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DONE, FAILED, CUT, MISSING, NO_TIME = "done", "failed", "timed out", "package missing", "no time left"


@dataclass
class Row:
    """One figure.

    Attributes:
        wanted: the promise in words; "" where there is none.
        holds: whether it is kept; None where nothing is promised or the size is too small to tell.
    """

    name: str
    value: str
    wanted: str = ""
    holds: bool | None = None


@dataclass
class Record:
    """The rows and notes of one section, mirrored in a file."""

    path: Path
    status: str = ""
    seconds: float = 0.0
    device: str = ""
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, name: str, value: Any, wanted: str = "", holds: bool | None = None) -> None:
        """Add a figure."""
        self.rows.append(Row(name, str(value), wanted, None if holds is None else bool(holds)))
        print(
            f"  {name}: {value}" + ("" if holds is None else f"   [{'holds' if holds else 'FAILS'}: {wanted}]"),
            flush=True,
        )
        self.write()

    def note(self, text: str) -> None:
        """Add what explains a figure."""
        self.notes.append(text)
        print(f"  ({text})", flush=True)
        self.write()

    def write(self) -> None:
        """Mirror it."""
        plain = {key: value for key, value in asdict(self).items() if key != "path"}
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(plain, indent=1))
        part.replace(self.path)

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """What an earlier run left."""
        if not path.exists():
            return None
        plain = json.loads(path.read_text())
        return cls(path=path, **{**plain, "rows": [Row(**row) for row in plain["rows"]]})

    @property
    def broken(self) -> bool:
        """Whether a promise fails or the section did not come to its end."""
        return self.status in (FAILED, CUT) or any(row.holds is False for row in self.rows)


@dataclass(frozen=True)
class Plan:
    """How large the checks are.

    Attributes:
        device: ``cuda`` or, with ``--tiny``, ``cpu``.
        tiny: sizes that only show that the program runs; promises of speed are not judged.
        folder: for what a section writes.
    """

    device: str
    tiny: bool
    folder: Path
