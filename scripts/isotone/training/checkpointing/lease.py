"""One trainer per state folder: a lease that expires, and a generation that fences.

The lease (filelock's soft lease) says who should be training; a holder that was
stopped for too long loses it and may not know. So checkpoints live in a folder named
after the holder's generation, and taking over renames that folder: whatever an old
holder still tries to commit fails, because its paths no longer exist.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from isotone.errors import Unfinished
from isotone.records import sync_folder

_GENERATION = re.compile(r"checkpoints\.g(\d+)$")


class LostLease(Unfinished):
    """Another trainer took over: stop without touching anything."""


class Lease:
    """The right to train in one state folder."""

    def __init__(self, folder: Path, *, seconds: float, wait: float) -> None:
        """Prepare; `acquire` takes it.

        Args:
            seconds: without a sign of life for so long, another start may take over.
            wait: seconds to wait for another holder.
        """
        self.folder, self.wait = Path(folder), wait
        self.generation = 0
        self._lost = False
        self._lock = SoftFileLease(
            str(self.folder / "lock"), lease_duration=seconds, thread_local=False, on_compromise=self._compromised
        )

    def _compromised(self, _: object) -> None:
        self._lost = True

    def acquire(self, say: Callable[[str], None] = print) -> Path:
        """Wait for the lease, take over the checkpoints, and return their folder.

        Raises:
            Unfinished: if another trainer keeps it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                if self.wait > 0:
                    say(f"another trainer works in {self.folder}; waiting up to {self.wait:.0f} s")
                    self._lock.acquire(timeout=self.wait, poll_interval=min(0.5, self.wait))
                else:
                    raise
        except (Timeout, LeaseSettingsMismatch):
            raise Unfinished(
                f"Another trainer holds {self.folder / 'lock'} and has not let go for {self.wait:.0f} s. "
                "Nothing was changed. Run this again when the other is done, or stop the other."
            ) from None
        return self._take_over()

    def _take_over(self) -> Path:
        """Rename the checkpoints to a new generation: the fence."""
        found = sorted(
            (int(match[1]), entry) for entry in self.folder.iterdir() if (match := _GENERATION.match(entry.name))
        )
        self.generation = found[-1][0] + 1 if found else 1
        place = self.checkpoints
        if found:
            os.rename(found[-1][1], place)
        else:
            place.mkdir()
        sync_folder(self.folder)
        return place

    @property
    def checkpoints(self) -> Path:
        """The folder that only this generation writes to."""
        return self.folder / f"checkpoints.g{self.generation:06d}"

    def lost(self) -> bool:
        """Whether somebody took over."""
        return self._lost or not self.checkpoints.exists()

    def check(self) -> None:
        """Make sure that nobody took over.

        Raises:
            LostLease: if somebody did.
        """
        if self.lost():
            raise LostLease(
                f"This trainer lost its lease on {self.folder} (it stood still for too long) and another took over. "
                "It stops without writing anything."
            )

    def release(self) -> None:
        """Let go; a lost lease is left alone."""
        self._lock.release(force=True)
