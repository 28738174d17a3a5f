"""Exit codes and the errors that carry them.

Every program of Isotone ends with one of these codes. A user never sees a
traceback for something that the user can mend: such an error is one paragraph
that says what failed, where, the value seen and what to do.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

DONE = 0
DIVERGED = 70
INPUT_OUTPUT = 74
UNFINISHED = 75
CONFIGURATION = 78


class IsotoneError(Exception):
    """A failure that is explained in one paragraph; ``code`` is the exit status."""

    code = 1


class ConfigurationError(IsotoneError):
    """Settings or inputs that cannot work: exit 78, no retry can help."""

    code = CONFIGURATION


class InputOutputError(IsotoneError):
    """Files that cannot be read or written: exit 74."""

    code = INPUT_OUTPUT


class Unfinished(IsotoneError):
    """Work stopped in good order and is not done: exit 75, run again."""

    code = UNFINISHED


class Halted(Unfinished):
    """A HALT file holds the work: exit 75, and running again is useless until it is removed."""


class Diverged(IsotoneError):
    """Training failed numerically and rolling back did not help: exit 70."""

    code = DIVERGED


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def last_line(code: int, message: str = "") -> str:
    """How a program ended, in one line that people and the Slurm profile look for."""
    reason = f": {message.splitlines()[0]}" if message else ""
    if code == DONE:
        return "isotone: done"
    if code == UNFINISHED:
        return f"isotone: interrupted (75), will resume when run again{reason}"
    if code == CONFIGURATION:
        return f"isotone: refused (78){reason}"
    return f"isotone: failed ({code}){reason}"


def _say_last(line: str) -> None:
    """Print the last line, and add it to the log of the Slurm job that this program runs in."""
    print(line, file=sys.stderr, flush=True)
    if path := os.environ.get("ISOTONE_JOB_LOG"):
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as log:
            log.write(line + "\n")


def run(main: Callable[[], int | None], *, job: bool = True) -> None:
    """Run a program's ``main`` and leave with its exit code.

    An `IsotoneError` prints its paragraph to stderr; any other exception is a
    fault of Isotone and keeps its traceback.

    Args:
        job: whether the last line says how it ended, as logs are searched for; a command of a person has no log.
    """
    try:
        code = main() or DONE
    except IsotoneError as error:
        print(f"{error}", file=sys.stderr, flush=True)
        halted = isinstance(error, Halted)
        if job:
            _say_last(f"isotone: halted: {error}" if halted else last_line(error.code, str(error)))
        sys.exit(error.code)
    except Exception as error:
        _say_last(last_line(1, f"{type(error).__name__}: {error}; a fault of Isotone, see the traceback"))
        raise
    if job:
        _say_last(last_line(code))
    sys.exit(code)
