"""Ending together: a process that fails tells the others, which sit in a collective and would wait for ever.

The word is a file in the state folder, because the network is what they wait for. Each
process looks for it in a thread of its own, so that the end comes within a second
whatever the program does; what it was doing is repeated by the next start.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch.distributed as dist

from isotone.errors import UNFINISHED, InputOutputError, IsotoneError, Unfinished
from isotone.records import Json, read_json, write_json
from isotone.training.checkpointing.lease import Lease
from isotone.training.engine import is_out_of_memory
from isotone.training.inputs import Run
from isotone.training.loop import Loop, Stopped
from isotone.training.supervision.outcome import write_outcome
from isotone.training.world import World

PAUSE = 0.2  # seconds between two looks
PATIENCE = 5.0  # seconds that a process has to end by itself, once it is told
SMALLER = "smaller_micro_batch.json"
LOST = ("closed by peer", "reset by peer", "broken pipe", "timed out", "timeout", "nccl", "gloo", "not connected")


class Ended(Unfinished):
    """Another process failed, so this one stops too, with its code."""

    def __init__(self, word: Json) -> None:
        """Repeat a word that was left."""
        super().__init__(f"process {word['rank']} failed: {word['message']}")
        self.code = int(word["code"])


def _word(folder: Path, token: str) -> Path:
    return folder / f"ended-{token}.json"


class Together:
    """What one process knows of the end of the others."""

    def __init__(self, folder: Path, token: str, rank: int, *, told: Callable[[int, str], None]) -> None:
        """Begin to look.

        Args:
            token: of this start, the same in all processes.
            told: leaves word of the end for later starts; called just before a process that hangs is ended.
        """
        self.folder, self.path, self.rank, self.told = folder, _word(folder, token), rank, told
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="together", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()
        self._thread.join()

    def word(self) -> Json | None:
        """What another process left, if one did."""
        try:
            return read_json(self.path)
        except (InputOutputError, OSError):
            return None

    def leave(self, code: int, message: str) -> None:
        """Tell the others; the first word counts."""
        if not self.path.exists():
            with contextlib.suppress(OSError):
                write_json(self.path, {"code": code, "message": message, "rank": self.rank})

    def _watch(self) -> None:
        while not self._closed.wait(PAUSE):
            if not self.path.exists():
                continue
            if self._closed.wait(PATIENCE):
                return
            word = self.word() or {"code": UNFINISHED, "message": "another process failed"}
            self.told(int(word["code"]), str(word["message"]))
            os._exit(int(word["code"]))


@contextlib.contextmanager
def ending_together(together: Together, smaller: Callable[[], Json | None]) -> Iterator[None]:
    """Run a sharded training so that no failure leaves a process behind.

    Args:
        smaller: after running out of memory, the ``micro_batch_size`` and ``halvings`` to go on with (raises
            ResourceError if there is nothing smaller); None if training has not begun.

    Raises:
        Unfinished: where the next start may do better: memory that ran out, a lost connection, another's failure.
    """
    try:
        yield
    except Stopped:  # agreed upon: all do
        raise
    except Exception as error:
        other = together.word()
        if other is None and _is_lost(error):
            time.sleep(5 * PAUSE)  # the other's word may be on its way
            other = together.word()
        if other is not None:
            raise Ended(other) from error
        raised = _meaning(error, together.folder, smaller)
        together.leave(raised.code if isinstance(raised, IsotoneError) else 1, str(raised))
        if raised is error:
            raise
        raise raised from error


def _is_lost(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and not is_out_of_memory(error) and any(word in text for word in LOST)
    )


def _meaning(error: Exception, folder: Path, smaller: Callable[[], Json | None]) -> Exception:
    """What an exception of one process means for the run."""
    cause: BaseException | None = error
    while cause is not None and not is_out_of_memory(cause):
        cause = cause.__cause__
    if cause is not None:
        try:
            less = smaller()
        except IsotoneError as nothing:
            return nothing
        if less is None:
            return error
        write_json(folder / SMALLER, less)
        return Unfinished(
            f"Memory did not suffice in one process; the next start takes {less['micro_batch_size']} sequences at once."
        )
    if _is_lost(error):
        return Unfinished(f"The connection to another process was lost ({error}). Run this again.")
    return error


def smaller_micro_batch(folder: Path) -> Json | None:
    """What an earlier start left behind when its memory ran out."""
    with contextlib.suppress(OSError, json.JSONDecodeError, InputOutputError):
        return read_json(folder / SMALLER)
    return None


def clear_words(folder: Path) -> None:
    """Remove what earlier starts told one another."""
    for path in folder.glob("ended-*.json"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def company(run: Run, world: World, lease: Lease | None, loop: Callable[[], Loop | None]) -> Iterator[None]:
    """Watch over one start of a sharded run.

    Args:
        loop: the loop, once there is one.
    """
    if world.leads:
        clear_words(run.folder)
    token = world.share(f"{lease.generation}-{os.getpid()}" if lease else None)

    def told(code: int, message: str) -> None:
        if lease:
            state, steps = (now.state.step, now.schedule.steps) if (now := loop()) else (0, 0)
            write_outcome(run.folder, code, message, step=state, steps=steps)
            lease.release()

    def smaller() -> Json | None:
        if (now := loop()) is None:
            return None
        return dict(zip(("micro_batch_size", "halvings"), now.stepper.gather.halved(now.state), strict=True))

    together = Together(run.folder, token, world.rank, told=told)
    try:
        with ending_together(together, smaller):
            yield
    finally:
        together.close()


def shrink(loop: Loop, folder: Path) -> None:
    """Go on with the micro-batch that an earlier start asked for when its memory ran out."""
    less = loop.world.share(smaller_micro_batch(folder) if loop.world.leads else None)
    if less and less["micro_batch_size"] < loop.state.micro_batch_size:
        loop.state.micro_batch_size, loop.state.halvings = less["micro_batch_size"], less["halvings"]
        loop.stepper.gather.deal(loop.state.micro_batch_size)
