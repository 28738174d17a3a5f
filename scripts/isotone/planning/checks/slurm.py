"""Checks of a Slurm profile: would the controller take its jobs?"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from isotone.cluster.queue import own_jobs
from isotone.cluster.records import fields
from isotone.cluster.submission import FULL
from isotone.errors import ConfigurationError
from isotone.planning.checks import Check, Verdict
from isotone.studies.study import Study

TRAINING = ("train_baseline", "train_monotonic", "pretrain")
MINUTES = re.compile(r"^\s*(\d+)")


def read_profile(profile: Path) -> dict[str, Any]:
    """A profile's settings.

    Raises:
        ConfigurationError: if there is no such profile.
    """
    path = profile / "config.yaml" if profile.is_dir() else profile
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"--profile {profile} cannot be read: {error}") from None


def _first_number(value: Any) -> int | None:
    """The number with which a resource begins (``60 * min(attempt, 3)`` is 60 at the first attempt)."""
    match = MINUTES.match(str(value))
    return int(match[1]) if match else None


def submission(resources: dict[str, Any]) -> list[str]:
    """What the plugin would pass to sbatch, as far as the controller judges it."""
    words = []
    for key, option in (("slurm_partition", "--partition"), ("slurm_account", "--account"), ("gres", "--gres")):
        if resources.get(key):
            words.append(f"{option}={resources[key]}")
    if (memory := _first_number(resources.get("mem_mb"))) is not None:
        words.append(f"--mem={memory}")
    if (runtime := _first_number(resources.get("runtime"))) is not None:
        words.append(f"--time={runtime}")
    if resources.get("gpu"):
        model = f"{resources['gpu_model']}:" if resources.get("gpu_model") else ""
        words.append(f"--gpus={model}{resources['gpu']}")
    return words


def jobs_of(profile: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Resources by rule: the defaults, and each rule that differs."""
    defaults = profile.get("default-resources") or {}
    if isinstance(defaults, list):
        defaults = dict(entry.split("=", 1) for entry in defaults)
    own = profile.get("set-resources") or {}
    return {"default": defaults} | {rule: defaults | more for rule, more in own.items() if isinstance(more, dict)}


def accepted(rule: str, resources: dict[str, Any]) -> Verdict:
    """Ask the controller with ``sbatch --test-only``; nothing is submitted."""
    answer = subprocess.run(
        ["sbatch", "--test-only", *submission(resources), "--wrap", "true"], capture_output=True, text=True, timeout=30
    )
    words = (answer.stderr or answer.stdout).strip().replace("\n", " ")
    if limit := FULL.search(words):
        return (
            "yellow",
            f"the queue holds as many of your jobs as it may now ({limit[0]}); submissions wait until some have left.",
        )
    if answer.returncode:
        return (
            "red",
            f"{words}. Correct the resources of rule {rule} in the profile (partition, account, memory, time).",
        )
    return "green", words[:160]


def controller() -> Verdict:
    """Slurm's programs are here and its controller answers."""
    missing = [name for name in ("sbatch", "squeue", "sacct", "scontrol") if shutil.which(name) is None]
    if missing:
        return "red", f"not found: {', '.join(missing)}. Run this on a login node of the cluster."
    answer = subprocess.run(["sinfo", "-h", "-o", "%P %l %G"], capture_output=True, text=True, timeout=30)
    if answer.returncode:
        return "red", f"{answer.stderr.strip()}. The controller does not answer; ask its operators."
    return "green", "partitions: " + "; ".join(" ".join(line.split()) for line in answer.stdout.splitlines()[:8])


def grace(study: Study, partitions: Collection[str]) -> Verdict:
    """GraceTime and KillWait against ``operation.grace``, in the partitions of training (none named: the default one)."""

    def said(*words: str) -> str:
        return subprocess.run(["scontrol", "-o", "show", *words], capture_output=True, text=True, timeout=30).stdout

    wait = re.search(r"KillWait\s*=\s*(\d+)", said("config"))
    if wait is None:
        return "yellow", "the cluster does not tell its KillWait"
    used = [
        found
        for found in map(fields, said("partition").splitlines())
        if (found.get("PartitionName") in partitions if partitions else found.get("Default") == "YES")
    ]
    graces = [int(found["GraceTime"]) for found in used if found.get("GraceTime", "").isdigit()]
    known = int(wait[1]) + min(graces, default=0)
    words = f"the cluster gives {known} s between signal and kill, operation.grace says {study.operation.grace:.0f} s"
    return ("yellow", f"{words}. Set it to {known} or less.") if known < study.operation.grace else ("green", words)


def held() -> Verdict:
    """Jobs of this checkout that wait and will not start by themselves."""
    holds = [job.hold for job in own_jobs() if job.hold is not None]
    return ("yellow", " ".join(map(str, holds[:5]))) if holds else ("green", "none")


def training_partitions(jobs: dict[str, dict[str, Any]]) -> set[str]:
    """Where the profile trains; a value may name several, with commas."""
    found = [jobs.get(rule, jobs["default"]).get("slurm_partition") for rule in TRAINING]
    return {name for value in found if value for name in str(value).split(",")}


def all_checks(study: Study, folder: Path, profile: Path) -> list[Check]:
    """Every check of a profile; only the executor `slurm` has any."""
    settings = read_profile(profile)
    if settings.get("executor") != "slurm":
        return [("profile", lambda: ("green", f"{profile}: jobs run on this machine"))]
    verdict = controller()
    checks: list[Check] = [("slurm", lambda: verdict)]
    if verdict[0] != "red":
        jobs = jobs_of(settings)
        checks += [(f"jobs of {rule}", partial(accepted, rule, found)) for rule, found in jobs.items()]
        checks.append(("held jobs", held))
        checks.append(("grace", partial(grace, study, training_partitions(jobs))))
    return checks
