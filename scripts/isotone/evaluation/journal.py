"""What an attack has done so far, so that a killed job goes on where it stood.

One JSON line per finished piece of work (a document's row, a restart of a search),
in a hidden file beside the result. Its first line names what the lines belong to: other
settings, another model or other documents start anew. A line that was cut off is dropped.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from isotone.progress import Progress
from isotone.records import Json, canonical_json

Item = TypeVar("Item")


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

    def in_chunks(
        self,
        items: Sequence[Item],
        size: int,
        work: Callable[[Sequence[Item]], list[Json]],
        progress: Progress,
        *,
        name: str = "",
    ) -> Iterator[tuple[list[Json], float]]:
        """The rows that ``work`` makes of some items at a time, and its seconds for one of them; what is there is kept.

        Args:
            name: tells several passes over the same items apart.
        """
        for first in range(0, len(items), size):
            chunk, key = items[first : first + size], f"{name} from {first}".strip()
            if key not in self.done:
                begin = time.perf_counter()
                rows = work(chunk)
                self.add([(key, {"rows": rows, "seconds": round((time.perf_counter() - begin) / len(chunk), 5)})])
            progress.add(len(chunk))
            yield self.done[key]["rows"], self.done[key]["seconds"]

    def close(self) -> None:
        """Forget everything: the final files stand."""
        self.path.unlink(missing_ok=True)
