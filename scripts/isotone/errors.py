"""Exit codes and the errors that carry them.

Every program of Isotone ends with one of these codes. A user never sees a
traceback for something that the user can mend: such an error is one paragraph
that says what failed, where, the value seen and what to do.
"""

from __future__ import annotations

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


class Diverged(IsotoneError):
    """Training failed numerically and rolling back did not help: exit 70."""

    code = DIVERGED


def run(main: Callable[[], int | None]) -> None:
    """Run a program's ``main`` and leave with its exit code.

    An `IsotoneError` prints its paragraph to stderr; any other exception is a
    fault of Isotone and keeps its traceback.
    """
    try:
        sys.exit(main() or DONE)
    except IsotoneError as error:
        print(f"{error}", file=sys.stderr, flush=True)
        sys.exit(error.code)
