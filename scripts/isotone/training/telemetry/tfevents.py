"""Scalars for TensorBoard: its own records, written at once, in a file per start."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from isotone.records import Json
from isotone.training.observer import Observer
from isotone.training.state import TrainerState

_COUNTER = itertools.count()


class EventWriter(Observer):
    """Not TensorBoard's `SummaryWriter`: that one writes from a thread of its own, which a full disk ends with an error."""

    def __init__(self, folder: Path) -> None:
        """Nothing is opened before `restart`."""
        self.folder = Path(folder)
        self._records: RecordWriter | None = None

    def restart(self, step: int) -> None:
        """Begin a file whose steps follow ``step``; steps of older files behind it are void."""
        self.close()
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{int(time.time())}.isotone.{os.getpid()}.{next(_COUNTER)}"
            self._records = RecordWriter(open(self.folder / name, "wb"))  # noqa: SIM115
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def on_resume(self, state: TrainerState) -> None:
        """Go on behind a checkpoint."""
        self.restart(state.step)

    def on_row(self, row: Json, state: TrainerState) -> None:
        """Write a row's figures."""
        self.scalars(int(row["step"]), {key: value for key, value in row.items() if isinstance(value, float)})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one step's figures."""
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._write(Event(step=step, summary=summary))

    def _write(self, event: Event) -> None:
        if self._records is None:
            return
        event.wall_time = time.time()
        with contextlib.suppress(OSError, ValueError):  # no figure is worth a run
            self._records.write(event.SerializeToString())
            self._records.flush()

    def close(self) -> None:
        """Close the file."""
        if self._records is not None:
            with contextlib.suppress(OSError):
                self._records.close()
        self._records = None
