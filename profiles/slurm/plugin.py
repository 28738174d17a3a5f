"""Mends what snakemake-executor-plugin-slurm 2.8.0 does wrong: all of it, and only here.

rules/common.smk calls `mend` in the main process; it does nothing unless the Slurm executor is used. Each line
has a test in tests/slurm/test_plugin_faults.py that fails without its work-around.

| seen | consequence without the work-around | work-around |
|---|---|---|
| sacct says "CANCELLED by 0" | state unknown to the plugin: the driver waits for ever after scancel | bin/sacct |
| sacct gives the node list "None assigned" | next sbatch gets --exclude=None assigned: the study dies | bin/sacct |
| PREEMPTED or NODE_FAIL of a job that Slurm does not requeue | the driver waits for ever | bin/sacct |
| accounting away for longer than the attempts last | every running job is forgotten: the driver waits for ever | `check_active_jobs` |
| accounting away during a submission | the account "is invalid": a retry is spent | `validate_account` |
| controller away, or busy, during sbatch | retries are spent within seconds | bin/sbatch |
| polling slows down to 180 s whatever the settings say | slow reaction | `next_seconds_between_status_checks` |
| SLURM_CONF is removed inside jobs | srun finds no controller where the file is not in its default place | bin/srun |
| a wrong partition, account or size fails at each submission | every retry of every job is spent | `preflight` |
| a job that refuses its input (exit 78 or 70) is tried again | every retry is spent on the same answer | `report_job_error` |
| jobs of a driver that was killed go on | two jobs for one result | `end_orphans` |

When the plugin changes: run tests/slurm/test_plugin_faults.py with ISOTONE_UNMENDED=1 in the environment; a test
that passes then has lost its reason, and so has its line here.
"""

from __future__ import annotations

import getpass
import importlib
import os
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROFILE = "profiles/slurm/config.yaml"
NEEDED = [
    "torch",
    "transformers",
    "datasets",
    "safetensors",
    "numpy",
    "pandas",
    "snakemake",
    "snakemake-executor-plugin-slurm",
]
LEAVING = 120.0  # seconds that a cancelled job may take to save and be gone
REFUSED = re.compile(r"^isotone: (refused|halted|failed \((?:70|78)\))", re.MULTILINE)


def environment_fault(lock: Path = HERE.parents[1] / "requirements.lock") -> str | None:
    """What is missing or older than the lock in this Python, in one sentence with the fix; None if all is well.

    A local version ("2.13.0+cu130") counts as the locked one. ISOTONE_ENVIRONMENT_CHECK=off accepts anything.
    """
    if os.environ.get("ISOTONE_ENVIRONMENT_CHECK") == "off" or not lock.is_file():
        return None
    pins = dict(line.split("==", 1) for line in lock.read_text(encoding="utf-8").split() if "==" in line)
    wrong = []
    for name in NEEDED:
        try:
            found = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if name in pins and found != pins[name].split("+")[0]:
            wrong.append(f"{name} is {found}, the lock says {pins[name]}")
    if not wrong:
        return None
    return (
        f"The environment of {sys.executable} does not fit this checkout: {'; '.join(wrong)}. Bring it up to date with "
        "`make env` (or pip install -r requirements.lock in your conda environment), then start again. "
        "To go on as it is: export ISOTONE_ENVIRONMENT_CHECK=off."
    )


def refusal(slurm_log: Path) -> str | None:
    """The line by which a job said that trying again cannot help, if its Slurm log ends with one."""
    try:
        tail = Path(slurm_log).read_bytes()[-8192:].decode(errors="replace")
    except OSError:
        return None
    last = [line for line in tail.splitlines() if line.startswith("isotone: ")][-1:]
    return last[0] if last and REFUSED.match(last[0]) else None


def _said(command: list[str], seconds: float = 60) -> str:
    """A command's output; empty if it fails (the answer is a help for the reader, never a decision)."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _refused_by_slurm(rule: str, call: str, error: str) -> str:
    partitions = ", ".join(dict.fromkeys(_said(["sinfo", "-h", "-o", "%P"]).split())) or "unknown"
    names = _said(["sacctmgr", "-nP", "show", "assoc", f"user={getpass.getuser()}", "format=account"]).split()
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
        if answer.returncode:
            raise WorkflowError(_refused_by_slurm(job.rule.name, call, answer.stderr.strip()))


def _really_submitted(call: str) -> subprocess.CompletedProcess[str]:
    """Submit a job for later and withdraw it.

    --test-only also refuses what would only have to wait, while nodes are down or not yet back after a restart;
    a held job would be taken whatever it asks for.
    """
    answer = subprocess.run(f"{call} --begin=now+1hour --wrap=true", shell=True, capture_output=True, text=True)
    if answer.returncode == 0:
        _said(["scancel", answer.stdout.strip().split(";")[0]])
    return answer


def end_orphans(executor: Any, plugin: Any) -> None:
    """Cancel jobs that an earlier driver left behind for results that this one is about to make.

    Snakemake's lock tells that the earlier driver is dead or done with them. A training run saves and the new job
    goes on from there. Other studies and other checkouts are left alone: working directory, rule and wildcards
    must agree. They have left before anything is submitted: an orphan's Snakemake removes its outputs at the end,
    and these are the new job's. ISOTONE_ORPHANS=keep leaves them running; the runs' own locks then keep order.
    """
    wanted = {}
    for job in executor.workflow.dag.needrun_jobs():
        if not job.is_local and not job.is_group():
            wildcards = plugin.get_job_wildcards(job)
            wanted[f"rule_{job.name}" + (f"_wildcards_{wildcards}" if wildcards else "")] = job
    orphans = []
    for line in _said(["squeue", "-h", "-u", getpass.getuser(), "-o", "%A|%T|%Z|%k"]).splitlines():
        number, state, folder, comment = line.split("|", 3)
        if comment in wanted and Path(folder) == Path(executor.workflow.workdir_init):
            orphans.append((number, state, comment))
    if not orphans:
        return
    keep = os.environ.get("ISOTONE_ORPHANS") == "keep"
    for number, state, comment in orphans:
        what = "left running" if keep else "cancelled; its work is kept as far as it was saved"
        executor.logger.warning(f"Slurm job {number} ({state}, {comment}) is left over from an earlier driver: {what}.")
    if keep:
        return
    numbers = [number for number, _, _ in orphans]
    _said(["scancel", *numbers])
    end = time.monotonic() + LEAVING
    while _said(["squeue", "-h", "-j", ",".join(numbers), "-o", "%A"]) and time.monotonic() < end:
        time.sleep(1)


def mended(executor_class: type, plugin: Any) -> type:
    """The plugin's executor with the work-arounds that cannot be made from outside."""

    class Executor(executor_class):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._reported: set[int] = set()  # before the thread that polls starts, or it dies without a word
            super().__init__(*args, **options)

        def __post_init__(self, *args: Any, **options: Any) -> None:
            if conf := os.environ.get("ISOTONE_SLURM_CONF"):  # removed where the driver is itself a job
                os.environ.setdefault("SLURM_CONF", conf)
            super().__post_init__(*args, **options)
            preflight(self, plugin)
            end_orphans(self, plugin)

        @property
        def next_seconds_between_status_checks(self) -> float:
            limit = self.workflow.remote_execution_settings.seconds_between_status_checks
            wish = self._next_seconds_between_status_checks
            return limit if wish is None else min(wish, limit)

        @next_seconds_between_status_checks.setter
        def next_seconds_between_status_checks(self, value: float) -> None:
            self._next_seconds_between_status_checks = value

        async def check_active_jobs(self, active_jobs: list[Any]) -> Any:
            self._reported.clear()
            kept = set()
            async for job in super().check_active_jobs(active_jobs):
                kept.add(id(job))
                yield job
            for job in active_jobs:  # nothing was learnt about these: they are still ours
                if id(job) not in kept and id(job) not in self._reported:
                    yield job

        def report_job_success(self, job_info: Any) -> None:
            self._reported.add(id(job_info))
            super().report_job_success(job_info)

        def report_job_error(self, job_info: Any, *args: Any, **options: Any) -> None:
            self._reported.add(id(job_info))
            said = refusal((job_info.aux or {}).get("slurm_logfile") or Path("/nonexistent"))
            if said:
                self.logger.error(f"No further attempt, it would end the same way. The job said: {said}")
                job_info.job.attempt = job_info.job.restart_times + 1
            super().report_job_error(job_info, *args, **options)

    return Executor


def remember(check: Any) -> Any:
    """`check`, asked once per account: an account that was valid stays so while accounting is away."""
    valid: dict[str, str] = {}

    def ask(account: str, logger: Any) -> str:
        if account not in valid:
            valid[account] = check(account, logger)
        return valid[account]

    return ask


def mend() -> None:
    """Make the Slurm executor sound, if this process has it loaded; safe to call anywhere."""
    plugin = sys.modules.get("snakemake_executor_plugin_slurm")
    if plugin is None or os.environ.get("ISOTONE_UNMENDED") or getattr(plugin, "mended_by_isotone", False):
        return
    plugin.mended_by_isotone = True
    os.environ["PATH"] = f"{HERE / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ["ISOTONE_PYTHON"] = sys.executable
    if conf := os.environ.get("SLURM_CONF"):
        os.environ["ISOTONE_SLURM_CONF"] = conf
    plugin.validate_account = remember(plugin.validate_account)
    plugin.Executor = mended(plugin.Executor, plugin)
    registry = importlib.import_module("snakemake_interface_executor_plugins.registry").ExecutorPluginRegistry()
    registry.plugins["slurm"].executor = plugin.Executor


if __name__ == "__main__":  # `python profiles/slurm/plugin.py`: what a job asks in its first second
    if message := environment_fault():
        print(f"{message}\nisotone: failed (78): the environment does not fit this checkout", flush=True)
        sys.exit(78)
