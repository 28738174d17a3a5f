"""Files of lines that grow for as long as a run does, and stay below a limit."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path


def older(path: Path) -> Path:
    """Where the lines before those of ``path`` are: ``events.jsonl`` follows ``events.1.jsonl``."""
    return path.with_name(f"{path.stem}.1{path.suffix}")


def read_lines(path: Path) -> list[str]:
    """The lines that are left of a rotated file, oldest first; none if it is missing."""
    lines: list[str] = []
    for part in (older(path), path):
        with contextlib.suppress(OSError):
            lines += part.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines


class Rotated:
    """Appends lines; a file that has reached its limit becomes the `older` one, which is replaced.

    So at most twice the limit lies on the disk, and at least the newest ``limit`` bytes do.
    A full or vanished disk loses lines and raises nothing.
    """

    def __init__(self, path: Path, limit: int) -> None:
        """Nothing is opened yet.

        Args:
            limit: bytes.
        """
        self.path, self.limit = Path(path), limit
        self._lock = threading.Lock()

    def append(self, *lines: str) -> None:
        """Write lines, from any thread."""
        with self._lock, contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                if self.path.stat().st_size >= self.limit:
                    os.replace(self.path, older(self.path))
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
