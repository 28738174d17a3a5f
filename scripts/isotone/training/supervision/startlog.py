"""A log of every start in the state folder, where no later start and no workflow removes it; no torch."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO


class Copied:
    """A stream that is also written to a log, line by line, stamped in UTC.

    What redraws a line of a terminal stands in the log as it stood last. A full disk
    loses lines of the log, never of the stream.
    """

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        """Write to both from now on."""
        self._stream, self._log = stream, log
        self._line = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Write."""
        count = self._stream.write(text)
        with self._lock:
            *lines, self._line = (self._line + text).split("\n")
            with contextlib.suppress(OSError, ValueError):
                for line in lines:
                    stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
                    self._log.write(f"{stamp} {line.rpartition(chr(13))[2]}\n")
                self._log.flush()
        return count

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's."""
        return getattr(self._stream, name)


def keep_log(folder: Path, rank: int = 0) -> Path | None:
    """Copy what this process says on stderr to ``logs/<time>-<pid>.log`` below a state folder, to its end.

    Returns:
        the log; None if it cannot be written.
    """
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}" + (f"-rank-{rank}" if rank else "")
    path = Path(folder) / "logs" / f"{name}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the process)
    except OSError:
        return None
    sys.stderr = Copied(sys.stderr, log)  # type: ignore[assignment]
    return path
