"""``history.csv``: one row per step, cut back to the checkpoint on resume.

A full disk loses rows, not steps.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isotone.records import Json
from isotone.training.observer import Observer
from isotone.training.state import TrainerState

COLUMNS = (
    "step,epoch,tokens,loss,validation_loss,learning_rate,{norms},tokens_per_second,fetch_seconds,"
    "memory_allocated,memory_reserved,rss,free_disk,seconds,stall_seconds"
)


def columns(groups: Sequence[str]) -> list[str]:
    """The header of a history.

    Args:
        groups: parameter groups whose gradient norms have a column.
    """
    return COLUMNS.format(norms=",".join(f"grad_norm_{group}" for group in groups)).split(",")


class History(Observer):
    """Writes the history of a run (first process only)."""

    def __init__(self, path: Path, groups: Sequence[str]) -> None:
        """Name the columns; nothing is written before `on_resume`.

        Args:
            groups: parameter groups whose gradient norms have a column.
        """
        self.path, self.columns = Path(path), columns(groups)
        self._file: Any = None

    def on_resume(self, state: TrainerState) -> None:
        """Cut the history back to a checkpoint and go on behind it."""
        self.open(state.history, state.step)

    def open(self, position: int, step: int) -> None:
        """Continue behind ``position`` bytes, which end with the row of ``step``; 0: a new file."""
        self.close()
        with contextlib.suppress(OSError):
            if position and self.path.exists() and self.path.stat().st_size >= position:
                os.truncate(self.path, position)
            else:
                self._rewrite(step if position else -1)  # without a checkpoint step 0 is told again too
            self._file = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def _rewrite(self, step: int) -> None:
        """Keep the rows up to ``step`` of a file that does not reach the known position."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        keep = [line for line in lines[1:] if (text := line.partition(",")[0]).isdigit() and int(text) <= step]
        text = "\n".join([",".join(self.columns), *keep]) + "\n"
        self.path.write_text(text, newline="")

    def on_row(self, row: Json, state: TrainerState) -> None:
        """Append one step."""
        self.write(row)

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one row; a column without a value stays empty."""
        if self._file is None:
            return
        cells = [_cell(values.get(column)) for column in self.columns]
        with contextlib.suppress(OSError, ValueError):
            self._file.write(",".join(cells) + "\n")
            self._file.flush()

    def on_save(self, state: TrainerState) -> None:
        """Note how many bytes belong to the checkpoint."""
        state.history = self.path.stat().st_size if self.path.exists() else 0

    def sync(self) -> None:
        """Make the rows durable that a checkpoint is about to refer to."""
        with contextlib.suppress(OSError, ValueError):
            if self._file is not None:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.8g}" if isinstance(value, float) else str(value)
