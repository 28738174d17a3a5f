"""Which job in Slurm's queue makes which run or step of a study: the plugin's comment names rule and wildcards, joined."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from isotone.cluster.queue import Job

RULES = {"starts": "apply_monotonicity", "order": "order_preservation"}  # of stages that are called otherwise
SINGLE = ("fetch", "corpus", "setup", "attack documents", "aggregate", "report")  # stages of one job
SHARED = re.compile(r"(seed|controls)_\d+")


def jobs_of(study: str, folder: Path, jobs: Iterable[Job]) -> list[Job]:
    """The jobs of one study of a checkout.

    Of ``ab_c`` and ``ab``, a job ``ab_c_baseline_1`` belongs to the first one, if there is a study of that name.

    Args:
        folder: the study's, beside those of the other studies.
    """
    others = [place.name for place in folder.parent.iterdir() if place.is_dir()] if folder.parent.is_dir() else []

    def whose(job: Job) -> str:
        names = (name for name in {study, *others} if f"{job.wildcards}_".startswith(f"{name}_"))
        return max(names, key=len, default="")

    return [job for job in jobs if whose(job) == study]


def job_of_run(jobs: Iterable[Job], study: str, arm: str, seed: int | str) -> Job | None:
    """The job that trains an arm from a seed, or makes a control; ``arm = ""``: the pretraining."""
    if not arm:
        return _find(jobs, ("pretrain",), study)
    if "~" in arm:
        return _find(jobs, ("control", "early"), f"{study}_{arm.replace('~early-', '_').replace('~', '_')}_{seed}")
    return _find(jobs, ("train_baseline", "train_monotonic"), f"{study}_{arm}_{seed}")


def job_of_step(jobs: Iterable[Job], study: str, stage: str, name: str, log: Path) -> Job | None:
    """The job of a step of `survey.expected_steps`; where several runs share one, its log is called as they are."""
    rule, words = RULES.get(stage, stage.replace(" ", "_")), [study]
    if stage.startswith("transfer "):
        rule, attack = stage.split()
        words.append(attack)
    if SHARED.fullmatch(log.stem):
        rule = f"{rule}_{log.stem}"
    elif stage not in SINGLE:
        words.append(name.replace("-seed-", "_"))
    return _find(jobs, (rule,), "_".join(words))


def _find(jobs: Iterable[Job], rules: tuple[str, ...], wildcards: str) -> Job | None:
    return next((job for job in jobs if job.rule in rules and job.wildcards == wildcards), None)
