"""The user's jobs in Slurm's queue that belong to this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 10.0  # seconds that an unreachable controller may take


@dataclass(frozen=True)
class Job:
    """One job: number, state, and the comment in which the plugin names rule and wildcards."""

    number: str
    state: str
    comment: str


def parse_queue(text: str, folder: str) -> list[Job]:
    """Jobs from ``squeue -h -o '%i|%T|%Z|%k'`` whose working directory is ``folder``."""
    jobs = []
    for line in text.splitlines():
        cells = line.split("|", 3)
        if len(cells) == 4 and os.path.realpath(cells[2]) == os.path.realpath(folder):
            jobs.append(Job(cells[0], cells[1], cells[3]))
    return jobs


def own_jobs() -> list[Job]:
    """Ask Slurm; no jobs where there is no Slurm or it does not answer."""
    squeue = shutil.which("squeue")
    if squeue is None or os.environ.get("SLURM_CONF") == os.devnull:
        return []
    try:
        answer = subprocess.run(
            [squeue, "--me", "-h", "-o", "%i|%T|%Z|%k"], capture_output=True, text=True, timeout=PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_queue(answer.stdout, str(Path.cwd())) if answer.returncode == 0 else []


def job_of(jobs: Iterable[Job], rule: str, name: str) -> Job | None:
    """The job of a rule whose wildcards spell ``name`` (``rule_train_monotonic_wildcards_kjv_mlp_both_42``)."""
    wanted = [part for part in name.replace("-seed-", "-").replace("/", "-").split("-") if part]
    for job in jobs:
        words = job.comment.replace("-", "_")
        if rule in words and all(f"_{part.replace('-', '_')}" in f"_{words}" for part in wanted):
            return job
    return None
