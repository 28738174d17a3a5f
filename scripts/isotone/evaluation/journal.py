"""What an attack has done so far, so that a killed job goes on where it stood.

One JSON line per finished piece of work (a document's row, a restart of a search),
in a hidden file beside the result. Its first line names what the lines belong to: other
settings, another model or other documents start anew. A line that was cut off is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from isotone.records import Json, canonical_json


class Journal:
    """Finished work by key."""

    def __init__(self, path: Path, identity: Any) -> None:
        """Open what is there.

        Args:
            path: the final file; the journal is a hidden sibling.
            identity: everything that the results depend on.
        """
        self.path = path.with_name(f".{path.name}.journal")
        self.done: dict[str, Json] = {}
        head = canonical_json({"journal": identity})
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n") if self.path.exists() else []
        if lines and lines[0] == head:
            for line in lines[1:-1]:  # what follows the last newline is empty or cut off
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    break
                self.done[entry["key"]] = entry["value"]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        kept = [canonical_json({"key": key, "value": value}) for key, value in self.done.items()]
        part.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")
        os.replace(part, self.path)

    def add(self, entries: Iterable[tuple[str, Json]]) -> None:
        """Remember finished work, durably."""
        with open(self.path, "a", encoding="utf-8") as file:
            for key, value in entries:
                file.write(canonical_json({"key": key, "value": value}) + "\n")
                self.done[key] = value
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Forget everything: the final files stand."""
        self.path.unlink(missing_ok=True)
