"""Putting this Slurm job back into the queue, which costs no retry and gives it a fresh time limit; no torch.

Only a job that Isotone's own Slurm profile submitted is ever put back: inside somebody's allocation, notebook or
array, SLURM_JOB_ID names *their* job.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import psutil

from isotone.cluster.records import fields

WAIT_FOR_KILL = 60.0  # seconds that Slurm may take to end a requeued job
WAIT_FOR_ANSWER = 30.0  # seconds that a failing start asks a controller that does not answer


def own_job() -> str | None:
    """What Slurm calls the job around this process, if Isotone submitted it; None anywhere else.

    profiles/slurm/job.sh, with which each of its jobs begins, leaves its mark in the environment. A task of an array
    is named with its index: the number alone may mean all tasks.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job or "ISOTONE_JOB_LOG" not in os.environ or os.environ.get("ISOTONE_JOB_ID", job) != job:
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else job


def requeue() -> None:
    """Ask Slurm to start this job again, then wait to be ended; returns only if the job stays as it is.

    A process that outlives its own job by that long was lost by Slurm (process tracking
    without control groups). The Snakemakes above it would take its end for a failure and
    remove results that the job's next start has made by then: they are killed with it.
    """
    scontrol, job = shutil.which("scontrol"), own_job()
    if scontrol is None or job is None:
        return
    before = _job(scontrol, job) or {}
    if _restarted(before):
        _vanish()
    if before.get("JobState", "RUNNING") != "RUNNING":  # cancelled by its user, or requeued already
        return
    asked = subprocess.run([scontrol, "requeue", job], capture_output=True, text=True)
    if asked.returncode:
        print(f"requeueing was refused ({asked.stderr.strip()})", file=sys.stderr, flush=True)
        return
    print("saved; this job goes back into the queue", file=sys.stderr, flush=True)
    now = None
    while now is None:
        time.sleep(WAIT_FOR_KILL)
        now = _job(scontrol, job)
    if before and now.get("Restarts") != before.get("Restarts"):
        _vanish()


def vanish_if_left_over() -> None:
    """End without a trace if Slurm has started this job again elsewhere since; else return.

    A node that was given up goes on computing. When its training program ends in a failure, the Snakemakes around
    it would report that, and remove results, for a job that is running in good order on another node.
    """
    scontrol, job = shutil.which("scontrol"), own_job()
    if scontrol is None or job is None or "ISOTONE_JOB_RESTARTS" not in os.environ:
        return
    end = time.monotonic() + WAIT_FOR_ANSWER
    while (now := _job(scontrol, job)) is None and time.monotonic() < end:
        time.sleep(WAIT_FOR_ANSWER / 10)
    if now is not None and _restarted(now):
        _vanish()


def _restarted(shown: dict[str, str]) -> bool:
    """Whether Slurm has restarted the job more often than this start of it knows."""
    own, now = os.environ.get("ISOTONE_JOB_RESTARTS", ""), shown.get("Restarts", "")
    return own.isdigit() and now.isdigit() and int(now) > int(own)


def _job(scontrol: str, job: str) -> dict[str, str] | None:
    """What Slurm knows of a job: nothing of one that ended long ago; None while it does not answer."""
    shown = subprocess.run([scontrol, "-o", "show", "job", job], capture_output=True, text=True)
    if shown.returncode and "Invalid job id" not in shown.stderr:
        return None
    return fields(shown.stdout)


def _vanish() -> None:
    """Kill all that is left of this start of the job, outermost first, and this process."""
    job = os.environ["SLURM_JOB_ID"]
    print(f"left over from an earlier start of job {job}: ends here", file=sys.stderr, flush=True)
    for process in reversed(psutil.Process().parents()):
        try:
            if process.name() != "slurmstepd" and process.environ().get("SLURM_JOB_ID") == job:
                process.kill()
        except psutil.Error:  # gone, or not ours
            continue
    psutil.Process().kill()
