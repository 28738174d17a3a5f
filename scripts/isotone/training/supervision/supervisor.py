"""Starting the training program again until it is done, without importing torch.

The supervisor passes signals on and never decides anything about training: it looks
at the exit code, and at ``outcome.json`` for codes that torchrun loses.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from isotone.cluster.requeue import own_job, requeue, vanish_if_left_over
from isotone.errors import (
    CONFIGURATION,
    DIVERGED,
    DONE,
    INPUT_OUTPUT,
    UNFINISHED,
    ConfigurationError,
    InputOutputError,
    Unfinished,
)
from isotone.records import read_json, write_json
from isotone.training.supervision.outcome import CODES, halted, read_outcome, take_codes
from isotone.training.supervision.stop import SIGNALS, job_end, stop_signals

FORWARDED = (*SIGNALS, signal.SIGUSR2)
EXPLAINED = (DONE, DIVERGED, INPUT_OUTPUT, UNFINISHED, CONFIGURATION)
REFUSALS = (CONFIGURATION, DIVERGED, INPUT_OUTPUT)
FRUITLESS = 3  # times in a row that a job goes back into the queue without a new checkpoint
NEAR = 60.0  # seconds before the end of its job within which no program is started again


def torchrun(processes: int, grace: float, nodes: int = 1) -> list[str]:
    """The command in front of the program that starts ``processes`` of it in all.

    Several nodes: srun starts one torchrun on each node of this Slurm job. Only inside
    srun do the variables exist that tell the nodes apart, hence the shell.

    Raises:
        ConfigurationError: the nodes would not have equally many processes.
    """
    if processes % nodes:
        raise ConfigurationError(
            f"{processes} processes cannot be shared out equally to {nodes} nodes. Set the training rule's resources "
            "processes and nodes so that one divides the other (profiles/slurm/config.yaml)."
        )
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={processes // nodes}",
        f"--shutdown-timeout={max(1, round(grace))}",
        "--max-restarts=0",
    ]
    if nodes == 1:
        return [*launch, "--standalone", "--"]  # else torchrun takes --start for an option of its own
    job = int(os.environ.get("SLURM_JOB_ID", "0"))
    port = 20000 + (7 * job + int(time.time())) % 20000  # another one after each requeue: the old one may linger
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    if generic := os.environ.get("ISOTONE_NODE_GRES"):  # set by profiles/slurm/job.sh; a step does not inherit it
        step.append(f"--gres={generic}")
    place = "--nnodes=$SLURM_NNODES --node-rank=$SLURM_NODEID --master-addr=$SLURM_LAUNCH_NODE_IPADDR"
    shell = f'exec {shlex.join(launch)} {place} --master-port={port} -- "$@"'
    return [*step, "bash", "-c", shell, "torchrun"]


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
        for number in (*stop_signals(), signal.SIGUSR2):
            signal.signal(number, self._forward)

    def _forward(self, number: int, _: FrameType | None) -> None:
        if number != signal.SIGUSR2:
            self.asked = True
        if self._child is not None and self._child.poll() is None:
            # srun and torchrun have ideas of their own about a closed terminal.
            self._child.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def once(self) -> int:
        """Run the command; returns its exit code, as the state folder tells it where it can."""
        before = read_outcome(self.folder)
        if self.asked:
            return UNFINISHED
        place = self.folder / f"code-{os.getpid()}"
        environment = os.environ | ({CODES: str(place.absolute())} if self.distributed else {})
        self._child = subprocess.Popen(self.command, start_new_session=True, env=environment)
        code = self._child.wait()
        left, outcome = take_codes(place), read_outcome(self.folder)
        if self.distributed and code:
            if outcome is not None and outcome != before:
                code = int(outcome["code"])
            elif not self.asked:  # they ended before the run was in anybody's hands
                code = next((known for known in REFUSALS if known in left), code)
        if code in EXPLAINED:
            return code
        if self.asked and (self.distributed or code < 0):  # ended by the signal before it could leave word
            return UNFINISHED
        return 128 - code if code < 0 else code

    def until_done(self) -> int:
        """Run the command until it ends with anything but 75, or makes no progress.

        A Slurm job of Isotone's own is put back into the queue instead, which costs no retry
        and gives it a fresh time limit; where that is forbidden the code 75 goes out.

        Raises:
            Unfinished: going back into the queue has led nowhere.
        """
        while True:
            step = self._step()
            code = self.once()
            if code:
                vanish_if_left_over()
            if code != UNFINISHED:
                return code
            if halted(self.folder, self.study_folder):
                return code
            if not self.asked and self._step() <= step:
                return code
            if own_job():
                self._note_requeue()
                requeue()
                return code
            end = job_end()
            if self.asked or (end is not None and time.time() + NEAR > end):
                return code

    def _note_requeue(self) -> None:
        """Count how often in a row this job went back without a new checkpoint.

        Raises:
            Unfinished: too often. As a failure it gets more time, where the profile raises that with each attempt.
        """
        path = self.folder / "requeued.json"
        saved = max((int(place.name[5:]) for place in self.folder.glob("checkpoints.g*/step-*")), default=-1)
        try:
            before = read_json(path)
        except InputOutputError:
            before = {}
        times = before["times"] + 1 if before.get("saved", -2) >= saved else 1
        if times > FRUITLESS:
            path.unlink()
            raise Unfinished(
                f"This job went back into the queue {FRUITLESS} times in a row and no start of it saved anything new, so "
                "it does not go back once more. Its time limit, or the time between signal and end of a preemption, "
                "is shorter than a start, some steps and a save: raise runtime (and --signal=TERM@seconds) of the "
                "training rules in profiles/slurm/config.yaml, or save more often (operation.save_every_minutes)."
            )
        write_json(path, {"saved": saved, "times": times})

    def _step(self) -> int:
        """How far the unfinished run is; a finished one whose files were deleted begins anew."""
        outcome = read_outcome(self.folder)
        return int(outcome["step"]) if outcome and outcome["code"] == UNFINISHED else -1
