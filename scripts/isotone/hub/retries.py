"""Again after a transient failure, each time later: 5 s, 20 s, 80 s, 300 s."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from isotone.environment import say

T = TypeVar("T")

TRIES = 5
FIRST, LONGEST, GROWTH = 5.0, 300.0, 4.0


def pauses() -> Iterator[float]:
    """Seconds to wait after each failed try; one fewer than there are tries."""
    for attempt in range(TRIES - 1):
        yield min(LONGEST, FIRST * GROWTH**attempt)


def retry(
    action: Callable[[], T],
    what: str,
    transient: Callable[[Exception], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Run ``action``; after a transient failure, wait and run it again.

    Args:
        what: the action in words, for the log.
        transient: whether a failure may pass by itself.
        sleep: how to wait.

    Raises:
        Exception: the last failure, or the first that is not transient.
    """
    for pause in pauses():
        try:
            return action()
        except Exception as error:
            if not transient(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            say(f"{what} failed ({reason}); again in {pause:.0f} s.")
        sleep(pause)
    return action()
