"""Starting the training program again until it is done, without importing torch.

The supervisor passes signals on and never decides anything about training: it looks
at the exit code, and at ``outcome.json`` for codes that torchrun loses.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from isotone.errors import UNFINISHED
from isotone.training.outcome import halted, read_outcome

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
WAIT_FOR_KILL = 60.0  # seconds that Slurm may take to end a requeued job


def torchrun(processes: int, grace: float) -> list[str]:
    """The command in front of the program that starts ``processes`` of it on this machine."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        f"--shutdown-timeout={max(1, round(grace))}",
        "--max-restarts=0",
    ]


class Supervisor:
    """Runs one command, perhaps again and again."""

    def __init__(self, command: Sequence[str], folder: Path, study_folder: Path, *, distributed: bool) -> None:
        """Take over the signals.

        Args:
            command: the training program, without ``--until-done``.
            folder: its state folder.
            distributed: the command is torchrun, which loses exit codes.
        """
        self.command, self.folder, self.study_folder = list(command), Path(folder), Path(study_folder)
        self.distributed = distributed
        self._child: subprocess.Popen[bytes] | None = None
        self.asked = False
        for number in FORWARDED:
            signal.signal(number, self._forward)

    def _forward(self, number: int, _: FrameType | None) -> None:
        if number != signal.SIGUSR2:
            self.asked = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def once(self) -> int:
        """Run the command; returns its exit code, as the state folder tells it where it can."""
        before = read_outcome(self.folder)
        if self.asked:
            return UNFINISHED
        self._child = subprocess.Popen(self.command, start_new_session=True)
        code = self._child.wait()
        outcome = read_outcome(self.folder)
        if self.distributed and code and outcome is not None and outcome != before:
            code = int(outcome["code"])
        return code if code >= 0 else 128 - code

    def until_done(self) -> int:
        """Run the command until it ends with anything but 75, or makes no progress.

        On Slurm the job is put back into the queue instead, which costs no retry and
        gives it a fresh time limit; where that is forbidden the code 75 goes out.
        """
        while True:
            step = self._step()
            code = self.once()
            if code != UNFINISHED:
                return code
            if halted(self.folder, self.study_folder):
                return code
            if os.environ.get("SLURM_JOB_ID"):
                return self._requeue(code)
            if self.asked or self._step() <= step:
                return code

    def _step(self) -> int:
        outcome = read_outcome(self.folder)
        return int(outcome["step"]) if outcome else -1

    def _requeue(self, code: int) -> int:
        """Ask Slurm to start this job again, then wait to be ended."""
        scontrol = shutil.which("scontrol")
        if scontrol is None:
            return code
        asked = subprocess.run([scontrol, "requeue", os.environ["SLURM_JOB_ID"]], capture_output=True, text=True)
        if asked.returncode:
            print(f"requeueing was refused ({asked.stderr.strip()}); exit {code}", file=sys.stderr, flush=True)
            return code
        print("saved; this job goes back into the queue", file=sys.stderr, flush=True)
        time.sleep(WAIT_FOR_KILL)
        return code
