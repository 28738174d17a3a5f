"""What the emulated tests share: a fork for each, models, and a step of training."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from typing import Any

import torch


def in_fork(work: Callable[[], Any]) -> Any:
    """The result of ``work`` in a process of its own, which alone knows the emulated device.

    Raises:
        AssertionError: with the trace, if it failed.
    """
    import transformers  # noqa: F401 - once, not in every fork

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def body() -> None:
        try:
            torch.set_num_threads(1)
            theirs.send((True, work()))
        except BaseException:
            theirs.send((False, traceback.format_exc()))

    child = context.Process(target=body)
    child.start()
    theirs.close()
    try:
        good, found = ours.recv()
    except EOFError:
        good, found = False, "the process died"
    child.join()
    assert good, found
    return found
