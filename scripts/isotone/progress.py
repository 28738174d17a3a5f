"""Progress of long work: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self


def duration(seconds: float) -> str:
    """Seconds as people say them: ``42s``, ``3m10s``, ``2h05m``, ``3d04h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def quantity(value: float) -> str:
    """A count in at most four digits: ``950``, ``12.3k``, ``4.5M``."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


class Progress:
    """Says how far some work is: done, rate and time left.

    On a terminal one line is redrawn up to four times a second; elsewhere a new
    line appears every ``every`` seconds. Nothing is said about work that ends
    before the first line is due.
    """

    def __init__(self, label: str, total: int | None = None, unit: str = "documents", every: float = 10.0) -> None:
        """Start the clock.

        Args:
            total: units of work in all; None when it is not known.
            unit: what is counted.
            every: seconds between lines in a log.
        """
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._terminal = sys.stderr.isatty()
        self._every = 0.25 if self._terminal else every
        self._start = self._last = time.monotonic()
        self._said = False

    def add(self, amount: int = 1, note: str = "") -> None:
        """Count ``amount`` more units, and speak if it is time."""
        self.done += amount
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._say(now, note)

    def _say(self, now: float, note: str = "") -> None:
        rate = self.done / max(now - self._start, 1e-9)
        parts = [f"{self.label}: {quantity(self.done)}"]
        if self.total:
            parts[0] += f" of {quantity(self.total)} {self.unit} ({100 * self.done / self.total:.0f} %)"
            parts.append(f"{duration((self.total - self.done) / max(rate, 1e-9))} left")
        else:
            parts[0] += f" {self.unit}"
        parts.insert(1, f"{quantity(rate)}/s")
        line = ", ".join([*parts, note] if note else parts)
        if self._terminal:
            width = 20
            share = min(1.0, self.done / self.total) if self.total else 0.0
            bar = "[" + "=" * round(share * width) + " " * (width - round(share * width)) + "] " if self.total else ""
            sys.stderr.write(f"\r\x1b[2K{bar}{line}")
            sys.stderr.flush()
        else:
            print(line, file=sys.stderr, flush=True)
        self._said = True

    def __enter__(self) -> Self:
        """Use it as a context, so that the terminal's line ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say the last figure if anything was said before."""
        if self._said:
            self._say(time.monotonic())
            if self._terminal:
                sys.stderr.write("\n")
