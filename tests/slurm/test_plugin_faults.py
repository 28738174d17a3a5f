"""Faults of the Slurm plugin: each test hangs, dies or spends retries without its work-around in isotone/cluster.

`ISOTONE_UNMENDED=1 pytest tests/slurm/test_plugin_faults.py` shows that: what passes then needs no work-around any more.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.slurm.lab import ROOT, Driver, Lab, until

PLUGIN = ROOT / "profiles/slurm"


def fake(folder: Path, name: str, body: str) -> dict[str, str]:
    """A program that stands in front of Slurm's own; $REAL is the real one."""
    place = folder / "fake"
    place.mkdir(exist_ok=True)
    (place / name).write_text(f"#!/usr/bin/env bash\nREAL=/usr/bin/{name}\n{body}\n")
    (place / name).chmod(0o755)
    return {"PATH": f"{place}{os.pathsep}"}


def in_front(lab: Lab, extra: dict[str, str]) -> dict[str, str]:
    return {"PATH": extra["PATH"] + lab.environment["PATH"]}


def cancelled_by_user(lab: Lab, folder: Path) -> None:
    driver = Driver(lab, folder, "out/a.600", "--retries", "0")
    lab.say("scancel", lab.job(folder).number)
    assert driver.wait(900) == 1
    assert "CANCELLED" in driver.said


def slow_polling(lab: Lab, folder: Path) -> None:
    """Two quiet minutes and more would make the plugin look every 100 s."""
    began = time.time()
    driver = Driver(lab, folder, "out/a.70")
    assert driver.wait(900) == 0
    written = (folder / "out/a.70").stat().st_mtime
    assert time.time() - written < 20 and time.time() - began > 70


def preempted_for_good(lab: Lab, folder: Path) -> None:
    """Where preemption cancels, the job stays PREEMPTED: a retry has to bring it back."""
    driver = Driver(
        lab, folder, "out/a.25", "--default-resources", "slurm_partition=cancel", "slurm_account=lab", "mem_mb=500"
    )
    job = lab.job(folder)
    until("start", lambda: (folder / "starts").exists())
    guest = lab.preempt(job)
    until("the preempted job to go", lambda: not lab.jobs(folder, state="RUNNING"), 300)
    lab.say("scancel", guest)
    assert driver.wait(900) == 0
    assert lab.states(job.number) == ["PREEMPTED"] and len((folder / "starts").read_text().split()) == 2


def refused_input(lab: Lab, folder: Path) -> None:
    driver = Driver(lab, folder, "refused/a")
    assert driver.wait(900) == 1
    assert (folder / "attempts").read_text().split() == ["attempt"]
    assert "isotone: refused (78): the input is wrong" in driver.said


def other_failures_are_retried(lab: Lab, folder: Path) -> None:
    """The control: an ordinary failure is tried again, later each time."""
    driver = Driver(lab, folder, "failed/a")
    assert driver.wait(600) == 0
    assert len((folder / "attempts").read_text().split()) == 3
    waited = [time.mktime(time.strptime(line, "%Y-%m-%dT%H:%M:%S")) for line in _starts_of(lab, driver)]
    assert waited[1] - waited[0] >= 18 and waited[2] - waited[1] >= 38


def _starts_of(lab: Lab, driver: Driver) -> list[str]:
    name = driver.said.split("SLURM run ID: ")[1].split()[0]
    return lab.say("sacct", "-X", "-n", "-P", "--name", name, "-o", "Start").splitlines()


def sbatch_away(lab: Lab, folder: Path) -> None:
    """sbatch reaches no controller for 20 s: no retry is spent (there is none)."""
    away = f"if [ $(date +%s) -lt $(($(stat -c %Y {folder}/Snakefile) + 25)) ]; then\n"
    away += "echo 'sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)' >&2\nexit 1\nfi\nexec $REAL \"$@\""
    (folder / "Snakefile").touch()
    driver = Driver(lab, folder, "out/a.1", "--retries", "0", environment=in_front(lab, fake(folder, "sbatch", away)))
    assert driver.wait(900) == 0


def accounting_forgets(lab: Lab, folder: Path) -> None:
    """sacct fails for 40 s, longer than all attempts of a query last: the running job is not forgotten."""
    body = f'[ -e {folder}/away ] && exit 1\nexec $REAL "$@"'
    options = ["--slurm-status-attempts", "1"]
    driver = Driver(lab, folder, "out/a.20", *options, environment=in_front(lab, fake(folder, "sacct", body)))
    lab.job(folder)
    (folder / "away").touch()
    time.sleep(40)
    (folder / "away").unlink()
    assert driver.wait(900) == 0


def accounting_away_at_submission(lab: Lab, folder: Path) -> None:
    """The account was valid a minute ago; that accounting cannot say so now costs no retry."""
    body = f"[ -e {folder}/away ] && {{ echo 'connection refused' >&2; exit 1; }}\nexec $REAL \"$@\""
    environment = in_front(lab, fake(folder, "sacctmgr", body))
    fake(folder, "sshare", body)
    # The second job is submitted when the first has ended.
    driver = Driver(lab, folder, "out/a.8", "out/b.1", "--jobs", "1", "--retries", "0", environment=environment)
    lab.job(folder)
    (folder / "away").touch()
    assert driver.wait(900) == 0


def orphans(lab: Lab, folder: Path) -> None:
    """A driver that was killed leaves a job; the next one submits its own when that has left (SIGTERM is not enough)."""
    first = Driver(lab, folder, "out/a.40")
    old = lab.job(folder)
    until("start", lambda: (folder / "starts").exists())
    first.kill(signal.SIGKILL)
    locked = Driver(lab, folder, "out/a.40")
    assert locked.wait(900) == 1 and "--unlock" in locked.said
    assert Driver(lab, folder, "--unlock").wait(900) == 0
    second = Driver(lab, folder, "out/a.40")
    until("the second job", lambda: second.said.count("has been submitted") == 2)
    assert old.number not in [job.number for job in lab.jobs(folder)]
    assert second.wait(900) == 0
    assert f"Slurm job {old.number} (RUNNING, rule_stay_wildcards_a_40) is left over" in second.said
    assert lab.states(old.number) == ["CANCELLED"]


def other_studies_are_no_orphans(lab: Lab, folder: Path) -> None:
    """The control: another driver in the same checkout that makes something else keeps its job."""
    first = Driver(lab, folder, "out/a.20")
    lab.job(folder)
    assert Driver(lab, folder, "out/b.1").wait(900) == 0
    assert first.wait(900) == 0
    assert "left over" not in first.said


def refused_by_slurm(lab: Lab, folder: Path, *options: str) -> str:
    """What a driver says whose resources Slurm refuses; it must end soon and submit nothing."""
    driver = Driver(lab, folder, "out/a.1", *options)
    assert driver.wait(900) == 1
    assert "has been submitted" not in driver.said
    assert "Trying to restart" not in driver.said
    return driver.said


def wrong_partition(lab: Lab, folder: Path) -> None:
    said = refused_by_slurm(
        lab, folder, "--default-resources", "slurm_partition=gpuu", "slurm_account=lab", "mem_mb=500"
    )
    assert "nvalid partition" in said and "Partitions here: preempt*, brief, cancel, high" in said
    assert re.search(r"Your accounts: .*\blab\b", said)


def wrong_account(lab: Lab, folder: Path) -> None:
    said = refused_by_slurm(
        lab, folder, "--default-resources", "slurm_partition=high", "slurm_account=labb", "mem_mb=500"
    )
    assert "labb" in said and "profiles/slurm/config.yaml" in said


def too_large(lab: Lab, folder: Path) -> None:
    said = refused_by_slurm(lab, folder, "--set-resources", "stay:gpu=64")
    assert "rule stay" in said and "--gpus=64" in said


def all_nodes_down(lab: Lab, folder: Path) -> None:
    """The control: what would only have to wait is submitted. (Its partition has the one node that is drained.)"""
    partition = ["partitionname=alone", "nodes=n6", "state=up"]
    lab.say("scontrol", "create", *partition)
    lab.say("scontrol", "update", "nodename=n6", "state=drain", "reason=test")
    driver = Driver(
        lab, folder, "out/a.1", "--default-resources", "slurm_partition=alone", "slurm_account=lab", "mem_mb=500"
    )
    lab.job(folder, state="PENDING")
    lab.say("scontrol", "update", "nodename=n6", "state=resume")
    assert driver.wait(900) == 0 and "Trying to restart" not in driver.said


def stale_environment(lab: Lab, folder: Path) -> None:
    lock = folder / "requirements.lock"
    lock.write_text(lock.read_text().replace("\nsafetensors==", "\nsafetensors==9"))
    said = refused_by_slurm(lab, folder)
    assert "safetensors is" in said and "make env" in said


SCENARIOS = [
    cancelled_by_user,
    slow_polling,
    preempted_for_good,
    refused_input,
    other_failures_are_retried,
    sbatch_away,
    accounting_forgets,
    accounting_away_at_submission,
    orphans,
    other_studies_are_no_orphans,
    wrong_partition,
    wrong_account,
    too_large,
    all_nodes_down,
    stale_environment,
]


@pytest.mark.parametrize("scenario", [s.__name__ for s in SCENARIOS])
def test_fault(scenario: str, probed: dict[str, Future[None]]) -> None:
    probed[scenario].result()


def test_a_none_assigned_node_is_no_node(lab: Lab, tmp_path: Path) -> None:
    """A cancelled pending job has no node; sacct's words for that must not reach sbatch's --exclude."""
    number = lab.say("sbatch", "--parsable", "-A", "lab", "--begin=now+1hour", "-o", "/dev/null", "--wrap", "true")
    lab.say("scancel", number)
    query = ["-j", number, "-n", "-X", "-o", "nodelist%-256"]
    until("accounting to know", lambda: "None assigned" in lab.say("sacct", *query))
    assert lab.say(str(PLUGIN / "bin/sacct"), *query) == ""


def test_a_missing_python_ends_a_job_in_its_first_second(lab: Lab, checkout: Path) -> None:
    script = ". profiles/slurm/job.sh && touch went-on"
    environment = lab.environment | {"ISOTONE_PYTHON": "/nowhere/python"}
    call = ["sbatch", "--wait", "-A", "lab", "-o", "job.log", "--wrap", script]
    done = subprocess.run(call, cwd=checkout, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78 and not (checkout / "went-on").exists()
    said = (checkout / "job.log").read_text().splitlines()
    assert "profiles/slurm/site.sh" in "".join(said) and said[-1] == "isotone: failed (78): no Python on this node"
    assert said[0].startswith("isotone: job ") and " CPUs of this job" in said[1]
