"""Slows the training program down at one place, so that a disturbance hits exactly there.

On PYTHONPATH of the jobs (through profiles/slurm/site.sh of the scenario's checkout). Files in the working folder
steer it: `slow-validation` and `slow-save` hold seconds per batch and per fsync; `validating` and `saving` tell
that the place is reached. What training computes is untouched.
"""

import os
import sys
import time
from pathlib import Path

program = next((word for word in sys.orig_argv if word.endswith("scripts/train.py")), "")


def pause(name: str, sign: str) -> None:
    """Tell where we are and stay there for as long as the file says; not at all without it."""
    try:
        seconds = float(Path(name).read_text() or 0)
    except OSError:
        return
    Path(sign).touch()
    time.sleep(seconds)


if program and "--until-done" not in sys.orig_argv:
    sys.path.insert(0, str(Path(program).resolve().parent))
    from isotone.data.blocks import Blocks
    from isotone.training.loop import Loop
    from isotone.training.saver import Saver

    validate, batch, write, fsync = Loop._validate, Blocks.batch, Saver._write, os.fsync

    def slow_validate(self: Loop) -> None:
        if self.progress.step == 0:
            return validate(self)
        Blocks.batch = lambda blocks, indices: (pause("slow-validation", "validating"), batch(blocks, indices))[1]
        try:
            return validate(self)
        finally:
            Blocks.batch = batch

    def slow_write(self: Saver, step: int, progress: dict) -> None:
        if step == 0:
            return write(self, step, progress)
        os.fsync = lambda handle: (pause("slow-save", "saving"), fsync(handle))[1]
        try:
            return write(self, step, progress)
        finally:
            os.fsync = fsync

    Loop._validate, Saver._write = slow_validate, slow_write
