"""The local executor, with retries for one kind of failure only: a job that was killed.

The kernel ends what asks for more memory than there is with SIGKILL, and beside fewer neighbours the same job often
fits. What fails in any other way would fail again. ``retries`` in profiles/local says how often.
"""

from __future__ import annotations

import signal
from concurrent.futures import Future
from typing import Any

from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


def was_killed(error: BaseException | None) -> bool:
    """Whether a job's failure goes back to a command that ended by SIGKILL (Snakemake wraps that error)."""
    while error is not None:
        if getattr(error, "returncode", None) in KILLED:
            return True
        error = error.__cause__ or error.__context__
    return False


def patient(executor_class: type) -> type:
    """Snakemake's local executor that tries only killed jobs again."""

    class Executor(executor_class):  # type: ignore[misc, valid-type]
        def _callback(self, job_info: Any, future: Future[None]) -> None:
            job, error = job_info.job, future.exception()
            if error is not None and self.workflow.local_exec:  # beside a cluster's executor retries mean what they say
                if not was_killed(error):
                    job.attempt = job.restart_times + 1
                elif job.attempt <= job.restart_times:
                    self.logger.warning(f"{job} was killed, most likely for memory: it is tried again.")
            super()._callback(job_info, future)

    return Executor


def mend_local() -> None:
    """Give this process's Snakemake that executor; once."""
    plugin = ExecutorPluginRegistry().plugins.get("local")
    if plugin is not None and not hasattr(plugin.executor, "_isotone"):
        plugin.executor = patient(plugin.executor)
        plugin.executor._isotone = True
