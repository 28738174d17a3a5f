"""The user's jobs in Slurm's queue that belong to this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from isotone.cluster.holds import Hold, hold_of

PATIENCE = 10.0  # seconds that an unreachable controller may take


FORMAT = "%i|%T|%r|%Z|%k"  # number, state, reason, working directory, comment


@dataclass(frozen=True)
class Job:
    """One job: number, state, the comment in which the plugin names rule and wildcards, and why it waits."""

    number: str
    state: str
    comment: str
    reason: str = ""

    @property
    def hold(self) -> Hold | None:
        """What keeps it from ever starting, if anything does."""
        return hold_of(self.number, self.state, self.reason)

    @property
    def rule(self) -> str:
        """The rule that it runs."""
        return self.comment.partition("_wildcards_")[0].removeprefix("rule_")

    @property
    def wildcards(self) -> str:
        """The rule's wildcards, joined by underscores; the first one is the study."""
        return self.comment.partition("_wildcards_")[2]


def parse_queue(text: str, folder: str) -> list[Job]:
    """Jobs from squeue's lines in `FORMAT` whose working directory is ``folder``."""
    jobs = []
    for line in text.splitlines():
        cells = line.split("|", 4)
        if len(cells) == 5 and os.path.realpath(cells[3]) == os.path.realpath(folder):
            jobs.append(Job(cells[0], cells[1], cells[4], cells[2]))
    return jobs


def own_jobs() -> list[Job]:
    """Ask Slurm; no jobs where there is no Slurm or it does not answer."""
    squeue = shutil.which("squeue")
    if squeue is None or os.environ.get("SLURM_CONF") == os.devnull:
        return []
    try:
        answer = subprocess.run([squeue, "--me", "-h", "-o", FORMAT], capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_queue(answer.stdout, str(Path.cwd())) if answer.returncode == 0 else []
