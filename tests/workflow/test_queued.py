"""What `isotone status` takes for a run's or a step's job in Slurm's queue is that job, in real plans."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from isotone.cluster.queue import Job
from isotone.commands.queued import job_of_run, job_of_step, jobs_of
from isotone.commands.survey import expected_steps
from isotone.studies.reading import study_of


@pytest.mark.parametrize("config", ["config/smoke.yaml", "config/config.yaml"])  # the second one's runs share jobs
def test_each_run_and_step_has_its_job_in_the_plan(root: Path, config: str) -> None:
    command = [sys.executable, "-m", "snakemake", "-n", "--forceall", "--quiet", "host", "--configfile", config]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    plan = []
    for block in re.split(r"\n(?=(?:local)?rule )", done.stdout + done.stderr)[1:]:
        named = re.search(r"^    wildcards: (.*)$", block, re.M)
        values = [pair.split("=", 1)[1] for pair in named[1].split(", ")] if named else []
        rule = block.split(":")[0].split()[1]
        plan.append(Job(str(len(plan)), "RUNNING", f"rule_{rule}_wildcards_{'_'.join(values)}"))
    study = study_of([str(root / config)])
    folder = root / "results" / study.study
    jobs = jobs_of(study.study, folder, plan)
    found = [job_of_step(jobs, study.study, step.stage, step.name, step.log) for step in expected_steps(study, folder)]
    found += [job_of_run(jobs, study.study, arm, seed) for arm, seed in study.runs()]
    found.append(job_of_run(jobs, study.study, "", ""))
    assert None not in found
    assert {job.rule for job in plan} - {job.rule for job in found if job} == {"all", "figures"}
    assert {job.number for job in jobs if job.rule != "figures"} == {job.number for job in found if job}
