"""What a run takes of its machine: main memory and disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isotone.records import Json
from isotone.training.observer import Observer
from isotone.training.state import TrainerState

LOW_DISK = 2  # checkpoints that should still fit


def resident_memory() -> int:
    """Bytes of this process in main memory."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Machine(Observer):
    """Fills in ``rss`` and ``free_disk`` (bytes), and raises the alarm before the disk is full."""

    def __init__(self, folder: Path, event: Callable[..., Any], *, state_bytes: Callable[[], int]) -> None:
        """Nothing is measured yet.

        Args:
            state_bytes: size of one checkpoint.
        """
        self.folder, self.event, self.state_bytes = Path(folder), event, state_bytes
        self._alarmed = False

    def on_row(self, row: Json, state: TrainerState) -> None:
        """Measure."""
        free = shutil.disk_usage(self.folder).free
        row["rss"], row["free_disk"] = resident_memory(), free
        if free < LOW_DISK * self.state_bytes() and not self._alarmed:
            self._alarmed = True
            self.event("alarm", what="the disk is nearly full", free=free, checkpoint=self.state_bytes())
