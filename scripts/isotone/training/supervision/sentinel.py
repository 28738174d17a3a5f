"""A small process beside a trainer: it ends a trainer whose interpreter itself is stuck, which no thread of it can do.

The watchdog writes to its standard input how many seconds may pass until the next line. Time in which the trainer, or
both, were stopped does not count: `scontrol suspend`, gang scheduling, Ctrl-Z. Started by path; needs nothing but Python.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

LOOK = 1.0  # seconds between two looks
STILL = 3.0  # a look that comes so much later than asked: this process was stopped
WRITING = 3.0  # seconds for the stacks


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal; False where /proc does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in b"Tt"
    except OSError:
        return False


def watch(trainer: int, lines: int) -> None:
    """Until the trainer has ended, or is killed here.

    Args:
        trainer: its process id.
        lines: descriptor of the pipe from it.
    """
    allowed, last = float("inf"), time.monotonic()
    while True:
        looked = time.monotonic()
        ready = select.select([lines], [], [], LOOK)[0]
        now = time.monotonic()
        if ready:
            words = os.read(lines, 1 << 16).split()
            if not words:
                return
            allowed, last = float(words[-1]), now
        elif os.getppid() != trainer:  # it was killed, and a child of its own keeps the pipe open
            return
        elif now - looked > LOOK + STILL or is_stopped(trainer):
            last = now
        elif now - last > allowed:
            os.kill(trainer, signal.SIGUSR2)  # writes its stacks, without the interpreter's help
            time.sleep(WRITING)
            os.kill(trainer, signal.SIGKILL)
            return


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # they are for the trainer; this process ends with it
    watch(int(sys.argv[1]), 0)
