"""Putting this Slurm job back into the queue, which costs no retry and gives it a fresh time limit; no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import psutil

from isotone.cluster.records import fields

WAIT_FOR_KILL = 60.0  # seconds that Slurm may take to end a requeued job


def requeue() -> None:
    """Ask Slurm to start this job again, then wait to be ended; returns only if the job stays as it is.

    A process that outlives its own job by that long was lost by Slurm (process tracking
    without control groups). The Snakemakes above it would take its end for a failure and
    remove results that the job's next start has made by then: they are killed with it.
    """
    scontrol, job = shutil.which("scontrol"), os.environ.get("SLURM_JOB_ID")
    if scontrol is None or job is None:
        return
    before = _job(scontrol, job) or {}
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
        _vanish(job)


def _job(scontrol: str, job: str) -> dict[str, str] | None:
    """What Slurm knows of a job: nothing of one that ended long ago; None while it does not answer."""
    shown = subprocess.run([scontrol, "-o", "show", "job", job], capture_output=True, text=True)
    if shown.returncode and "Invalid job id" not in shown.stderr:
        return None
    return fields(shown.stdout)


def _vanish(job: str) -> None:
    """Kill all that is left of this start of the job, outermost first, and this process."""
    print(f"left over from an earlier start of job {job}: ends here", file=sys.stderr, flush=True)
    for process in reversed(psutil.Process().parents()):
        try:
            if process.name() != "slurmstepd" and process.environ().get("SLURM_JOB_ID") == job:
                process.kill()
        except psutil.Error:  # gone, or not ours
            continue
    psutil.Process().kill()
