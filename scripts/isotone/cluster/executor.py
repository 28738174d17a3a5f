"""Mends what snakemake-executor-plugin-slurm 2.8.0 does wrong: all of it, and only here.

rules/common.smk calls `mend` in the main process; it does nothing unless the Slurm executor is used. Each line
has a test in tests/slurm that fails without its work-around; the programs named bin/ stand in profiles/slurm.

| seen | consequence without the work-around | work-around |
|---|---|---|
| sacct says "CANCELLED by 0" | state unknown to the plugin: the driver waits for ever after scancel | `Reconciler` |
| sacct gives the node list "None assigned", or a warning | next sbatch gets --exclude=None assigned: the study dies | bin/sacct |
| PREEMPTED or NODE_FAIL of a job that Slurm does not requeue | the driver waits for ever | `Reconciler` |
| accounting lags, or has lost the job | the driver waits, perhaps for ever | `Reconciler` |
| accounting's last record is an earlier start's failure | the result of a job that runs is removed | `Reconciler` |
| a job is held after a failed launch | the driver waits for ever and says nothing | `Executor.attend` |
| accounting away for longer than the attempts last | every running job is forgotten: the driver waits for ever | `check_active_jobs` |
| accounting away during a submission | the account "is invalid": a retry is spent | `validate_account` |
| controller away, or busy, during sbatch | retries are spent within seconds | bin/sbatch |
| the queue holds as many jobs as the user may have | retries are spent within seconds | bin/sbatch |
| sbatch prints a balance, or "submission failed" in a notice | no job number, or a job that is forgotten | bin/sbatch |
| polling slows down to 180 s whatever the settings say | slow reaction | `next_seconds_between_status_checks` |
| SLURM_CONF is removed inside jobs | srun finds no controller where the file is not in its default place | bin/srun |
| a wrong partition, account or size fails at each submission | every retry of every job is spent | `preflight` |
| a job that refuses its input (exit 78 or 70) is tried again | every retry is spent on the same answer | `report_job_error` |
| jobs of a driver that was killed go on | two jobs for one result | `end_orphans` |

When the plugin changes: run tests/slurm/test_plugin_faults.py with ISOTONE_UNMENDED=1 in the environment; a test
that passes then has lost its reason, and so has its line here.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from isotone.cluster.fit import ROOT
from isotone.cluster.holds import hold_of
from isotone.cluster.states import Reconciler
from isotone.cluster.submission import end_orphans, preflight, said

REFUSED = re.compile(r"^isotone: (refused|halted|failed \((?:70|78)\))", re.MULTILINE)
RELEASES = 3  # times that one job is released before it is cancelled and submitted again


def refusal(slurm_log: Path) -> str | None:
    """The line by which a job said that trying again cannot help, if its Slurm log ends with one."""
    try:
        tail = Path(slurm_log).read_bytes()[-8192:].decode(errors="replace")
    except OSError:
        return None
    last = [line for line in tail.splitlines() if line.startswith("isotone: ")][-1:]
    return last[0] if last and REFUSED.match(last[0]) else None


def controller_jobs(run: str) -> list[tuple[str, str, str]] | None:
    """Number, state and reason of every job of a driver that the controller knows; None if it does not answer."""
    query = ["squeue", "--noheader", "--states=all", "--name", run, "--format", "%i|%T|%r"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode:
        return None
    rows = [f"{line}|".split("|") for line in answer.stdout.splitlines() if "|" in line]
    return [(row[0], row[1], row[2]) for row in rows]


def reconciled(query: Any, executor: Any) -> Any:
    """The plugin's status query, with the controller asked beside accounting."""
    reconcile = Reconciler()

    async def ask(command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        accounting, seconds = await query(command, logger)
        if executor._submitted_job_clusters:  # squeue would answer for one cluster only
            return accounting, seconds
        jobs = await asyncio.to_thread(controller_jobs, executor.run_uuid)
        if jobs is None and accounting is None:
            return None, None
        if jobs is not None:
            await asyncio.to_thread(executor.attend, jobs)
        numbers = [number for number in executor.asked if number and "_" not in number]
        seen = None if jobs is None else {number: state for number, state, _ in jobs}
        found = reconcile(numbers, accounting, seen)
        for number, state in found.items():
            words = ((accounting or {}).get(number, "unknown"), (seen or {}).get(number, "unknown"))
            if state == "FAILED" and not any(word.startswith("FAILED") for word in words):
                logger.warning(
                    f"Slurm job {number} is {words[0]} for accounting and {words[1]} for the controller, and nothing "
                    "brings it back: taken as failed."
                )
        return (accounting or {}) | found, seconds or 0.0

    return ask


def mended(executor_class: type, plugin: Any) -> type:
    """The plugin's executor with the work-arounds that cannot be made from outside."""

    class Executor(executor_class):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            # Before the thread that polls starts, or it dies without a word.
            self._reported: set[int] = set()
            self._released: Counter[str] = Counter()
            self._told: set[tuple[str, str]] = set()
            self.asked: list[str] = []
            super().__init__(*args, **options)

        def __post_init__(self, *args: Any, **options: Any) -> None:
            if conf := os.environ.get("ISOTONE_SLURM_CONF"):  # removed where the driver is itself a job
                os.environ.setdefault("SLURM_CONF", conf)
            super().__post_init__(*args, **options)
            plugin.query_job_status = reconciled(plugin.query_job_status, self)
            os.environ["ISOTONE_SBATCH_SAYS"] = str(Path(self.tmpdir) / "sbatch-says")
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
            self._pass_on()
            self._reported.clear()
            self.asked = [job.external_jobid for job in active_jobs]
            kept = set()
            async for job in super().check_active_jobs(active_jobs):
                kept.add(id(job))
                yield job
            for job in active_jobs:  # nothing was learnt about these: they are still ours
                if id(job) not in kept and id(job) not in self._reported:
                    yield job

        def _pass_on(self) -> None:
            """Say what bin/sbatch waits for: the plugin keeps its messages until it ends."""
            file = Path(os.environ.get("ISOTONE_SBATCH_SAYS", os.devnull))
            with contextlib.suppress(OSError):
                if file.is_file():
                    text = file.read_text()
                    file.unlink()
                    self.logger.warning(text.strip())

        def attend(self, jobs: list[tuple[str, str, str]]) -> None:
            """Release what waits for nobody's decision, a few times; say of the rest once who can end its wait."""
            for number, state, reason in jobs:
                hold = hold_of(number, state, reason)
                if hold is None:
                    continue
                if not hold.release:
                    if (number, hold.reason) not in self._told:
                        self._told.add((number, hold.reason))
                        self.logger.warning(str(hold))
                    continue
                self._released[number] += 1
                if self._released[number] <= RELEASES:
                    what = f"released, for the {self._released[number]}. time of {RELEASES}"
                    said(["scontrol", "release", number])
                else:
                    what = "cancelled, to be submitted again as far as retries go"
                    said(["scancel", number])
                self.logger.warning(f"{hold} It is now {what}.")

        def report_job_success(self, job_info: Any) -> None:
            self._reported.add(id(job_info))
            super().report_job_success(job_info)

        def report_job_error(self, job_info: Any, *args: Any, **options: Any) -> None:
            self._reported.add(id(job_info))
            word = refusal((job_info.aux or {}).get("slurm_logfile") or Path("/nonexistent"))
            if word:
                self.logger.error(f"No further attempt, it would end the same way. The job said: {word}")
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
    plugin: Any = sys.modules.get("snakemake_executor_plugin_slurm")
    if plugin is None or os.environ.get("ISOTONE_UNMENDED") or getattr(plugin, "mended_by_isotone", False):
        return
    plugin.mended_by_isotone = True
    programs = ROOT / "profiles/slurm/bin"
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ["ISOTONE_PYTHON"] = sys.executable
    if conf := os.environ.get("SLURM_CONF"):
        os.environ["ISOTONE_SLURM_CONF"] = conf
    plugin.validate_account = remember(plugin.validate_account)
    plugin.Executor = mended(plugin.Executor, plugin)
    registry = importlib.import_module("snakemake_interface_executor_plugins.registry").ExecutorPluginRegistry()
    registry.plugins["slurm"].executor = plugin.Executor
