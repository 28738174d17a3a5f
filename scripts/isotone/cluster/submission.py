"""What a driver does before its first submission: ask whether Slurm would take its jobs, end what an earlier one left."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotone.cluster.fit import environment_fault

PROFILE = "profiles/slurm/config.yaml"
LEAVING = 120.0  # seconds that a cancelled job may take to save and be gone
FULL = re.compile(r"(Assoc|QOS)(Max|Grp)SubmitJob")  # limits that a submission only has to wait for


def said(command: list[str], seconds: float = 60) -> str:
    """A command's output; empty if it fails (the answer is a help for the reader, never a decision)."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _refused_by_slurm(rule: str, call: str, error: str) -> str:
    partitions = ", ".join(dict.fromkeys(said(["sinfo", "-h", "-o", "%P"]).split())) or "unknown"
    names = said(["sacctmgr", "-nP", "show", "assoc", f"user={getpass.getuser()}", "format=account"]).split()
    accounts = ", ".join(sorted(set(names))) or "unknown (no accounting?)"
    asked = re.sub(r"^sbatch --parsable --job-name \S+ --output \S+ --export=ALL --comment \S+", "", call).strip()
    return (
        f"Slurm would refuse the jobs of rule {rule}: {error}\n"
        f"  Asked for: {asked}\n"
        f"  Partitions here: {partitions}. Your accounts: {accounts}.\n"
        f"  Nothing was submitted. Correct slurm_partition, slurm_account or the resources in {PROFILE} "
        "(default-resources, set-resources)."
    )


def _settled(job: Any) -> bool:
    """Whether a job's resources are known before its inputs exist (tmpdir never is, and does not matter)."""
    names = [name for name in job.resources.keys() if name != "tmpdir"]  # noqa: SIM118
    return all("<TBD>" not in str(job.resources.get(name)) for name in names)


def preflight(executor: Any, plugin: Any) -> None:
    """Ask Slurm once per kind of job whether it would take it, before the first submission.

    Raises:
        WorkflowError: one paragraph; nothing was submitted.
    """
    from snakemake_interface_common.exceptions import WorkflowError

    if fault := environment_fault():
        raise WorkflowError(fault)
    asked = set()
    for job in executor.workflow.dag.needrun_jobs():
        if job.is_local or job.is_group() or not _settled(job):
            continue
        plugin.validate_slurm_extra(job)
        try:
            account, partition = next(executor.get_account_arg(job)), executor.get_partition_arg(job)
        except WorkflowError as error:
            raise WorkflowError(_refused_by_slurm(job.rule.name, "", str(error))) from None
        parameters = {
            "run_uuid": executor.run_uuid,
            "slurm_logfile": "/dev/null",
            "comment_str": "preflight",
            "account": account,
            "partition": partition,
            "workdir": executor.workflow.workdir_init,
        }
        call = plugin.get_submit_command(job, parameters, settings=executor.workflow.executor_settings)
        call += plugin.set_gres_string(job)
        if call in asked:
            continue
        asked.add(call)
        answer = subprocess.run(f"{call} --test-only --wrap=true", shell=True, capture_output=True, text=True)
        if "configuration is not available" in answer.stderr:
            answer = _really_submitted(call)
        if answer.returncode and not FULL.search(answer.stderr):
            raise WorkflowError(_refused_by_slurm(job.rule.name, call, answer.stderr.strip()))


def _really_submitted(call: str) -> subprocess.CompletedProcess[str]:
    """Submit a job for later and withdraw it.

    --test-only also refuses what would only have to wait, while nodes are down or not yet back after a restart;
    a held job would be taken whatever it asks for.
    """
    answer = subprocess.run(f"{call} --begin=now+1hour --wrap=true", shell=True, capture_output=True, text=True)
    if answer.returncode == 0:
        said(["scancel", answer.stdout.strip().split(";")[0]])
    return answer


@dataclass(frozen=True)
class Orphan:
    """A job in the queue for a result that this driver is about to make."""

    number: str
    state: str
    comment: str
    owner: str = ""


def parse_orphans(text: str, folder: Path, wanted: Collection[str]) -> list[Orphan]:
    """Those of squeue's lines that belong to this folder and to one of the wanted results.

    Args:
        text: ``squeue --format '%A|%T|%Z|%k'``, one job a line; with ``%u|`` in front, of all users.
        wanted: comments, in which the plugin names rule and wildcards.
    """
    found = []
    for line in text.splitlines():
        cells = line.split("|")
        owner = cells.pop(0) if len(cells) == 5 else ""
        if len(cells) == 4 and cells[3] in wanted and os.path.realpath(cells[2]) == os.path.realpath(folder):
            found.append(Orphan(cells[0], cells[1], cells[3], owner))
    return found


def _comments(executor: Any, plugin: Any) -> set[str]:
    comments = set()
    for job in executor.workflow.dag.needrun_jobs():
        if not job.is_local and not job.is_group():
            wildcards = plugin.get_job_wildcards(job)
            comments.add(f"rule_{job.name}" + (f"_wildcards_{wildcards}" if wildcards else ""))
    return comments


def end_orphans(executor: Any, plugin: Any) -> None:
    """Cancel jobs that an earlier driver left behind for results that this one is about to make.

    Snakemake's lock tells that the earlier driver is dead or done with them. A training run saves and the new job
    goes on from there. Other studies and other checkouts are left alone: working directory, rule and wildcards
    must agree. They have left before anything is submitted: an orphan's Snakemake removes its outputs at the end,
    and these are the new job's. ISOTONE_ORPHANS=keep leaves them running; the runs' own locks then keep order.

    Raises:
        WorkflowError: another user's jobs make the same results in this folder; nothing was submitted.
    """
    from snakemake_interface_common.exceptions import WorkflowError

    me, folder, wanted = getpass.getuser(), Path(executor.workflow.workdir_init), _comments(executor, plugin)
    orphans = parse_orphans(said(["squeue", "-h", "-u", me, "-o", "%A|%T|%Z|%k"]), folder, wanted)
    keep = os.environ.get("ISOTONE_ORPHANS") == "keep"
    others = [
        job for job in parse_orphans(said(["squeue", "-h", "-o", "%u|%A|%T|%Z|%k"]), folder, wanted) if job.owner != me
    ]
    if others and not keep:
        raise WorkflowError(
            f"Slurm job {others[0].number} of user {others[0].owner} ({others[0].state}, {others[0].comment}) makes a "
            f"result of this folder, {folder}. Nothing was submitted. Wait until {others[0].owner}'s driver is done, "
            "work in a clone of your own, or say ISOTONE_ORPHANS=keep to run beside it: a training run is then made "
            "by one of you at a time."
        )
    if not orphans:
        return
    for job in orphans:
        what = "left running" if keep else "cancelled; its work is kept as far as it was saved"
        executor.logger.warning(
            f"Slurm job {job.number} ({job.state}, {job.comment}) is left over from an earlier driver: {what}."
        )
    if keep:
        return
    numbers = [job.number for job in orphans]
    said(["scancel", *numbers])
    end = time.monotonic() + LEAVING
    while said(["squeue", "-h", "-j", ",".join(numbers), "-o", "%A"]) and time.monotonic() < end:
        time.sleep(1)
