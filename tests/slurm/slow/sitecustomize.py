"""Slows the training program down at one place, so that a disturbance hits exactly there.

On PYTHONPATH of the jobs (through profiles/slurm/site.sh of the scenario's checkout). Files in the working folder
steer it: `slow-validation` and `slow-save` hold seconds per batch and per fsync; `validating` and `saving` tell
that the place is reached. `hold` names a step; a start that reaches it, and did not begin behind it, goes on by a few
steps a second only. What training computes is untouched.

The lab's GPUs are none: what Slurm gives a program to see is noted in `devices`, and it computes on the CPU on purpose.
"""

import os
import sys
import time
from pathlib import Path

program = next((word for word in sys.orig_argv if word.endswith("scripts/train.py")), "")


if program and (given := os.environ.get("CUDA_VISIBLE_DEVICES")):
    supervises = "--until-done" in sys.orig_argv  # it starts as many processes as the job has GPUs
    with open("devices", "a") as devices:
        devices.write(f"{'supervisor' if supervises else 'launcher'} {given}\n")
    if not supervises:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pause(name: str, sign: str) -> None:
    """Tell where we are and stay there for as long as the file says; not at all without it."""
    try:
        seconds = float(Path(name).read_text() or 0)
    except OSError:
        return
    Path(sign).touch()
    time.sleep(seconds)


def held(started: int, step: int) -> bool:
    """Whether `hold` wants this start to be slow here."""
    try:
        return started < int(Path("hold").read_text() or step + 1) <= step
    except OSError:
        return False


if program and "--until-done" not in sys.orig_argv:
    sys.path.insert(0, str(Path(program).resolve().parent))
    from isotone.data.blocks import Blocks
    from isotone.training.checkpointing.saver import Saver
    from isotone.training.loop import Loop

    validate, batch, write, fsync, step = Loop._validate, Blocks.batch, Saver._write, os.fsync, Loop._step

    def slow_validate(self: Loop) -> None:
        if self.state.step == 0:
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

    def slow_step(self: Loop) -> None:
        if held(self._resumed, self.state.step):
            time.sleep(0.3)
        return step(self)

    Loop._validate, Loop._step, Saver._write = slow_validate, slow_step, slow_write
