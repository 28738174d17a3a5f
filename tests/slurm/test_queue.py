"""Jobs that wait, stand still, are held, refused or forgotten: the driver ends by itself, or says what a person must do."""

from __future__ import annotations

import os
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.slurm.lab import Driver, Job, Lab, until


def resources(partition: str, account: str = "lab", *more: str) -> list[str]:
    """Options that send every job there."""
    return ["--default-resources", f"slurm_partition={partition}", f"slurm_account={account}", "mem_mb=500", *more]


def starts(folder: Path) -> list[str]:
    """The outputs that were begun, in order."""
    return (folder / "starts").read_text().split() if (folder / "starts").exists() else []


def started(lab: Lab, folder: Path) -> Job:
    """A job whose program runs."""
    job = lab.job(folder)
    until("its program to start", lambda: starts(folder))
    return job


def a_prolog_fails(lab: Lab, folder: Path) -> None:
    """Slurm drains the node and holds the job, for ever: it is released and goes on when there is a node for it."""
    broken = lab.folder / "prolog-fails-n7"
    broken.touch()
    driver = Driver(lab, folder, "out/a.1", *resources("odd", "lab", "slurm_extra='--exclude=n8'"), "--retries", "0")
    until("the driver to release it", lambda: "released, for the 1. time of 3" in driver.said)
    broken.unlink()
    lab.say("scontrol", "update", "nodename=n7", "state=resume")
    assert driver.wait() == 0
    assert "(launch_failed_requeued_held) and will not start by itself" in driver.said
    assert starts(folder) == ["a.1"]


def held_by_its_user(lab: Lab, folder: Path) -> None:
    """What a person holds a person releases; the driver says so, with the command."""
    driver = Driver(lab, folder, "out/a.1", *resources("preempt", "lab", "slurm_extra='--hold'"), "--retries", "0")
    job = lab.job(folder, state="PENDING")
    command = f"scontrol release {job.number}"
    until("the driver to say so", lambda: command in driver.said)
    status = lab.say("squeue", "-h", "-j", job.number, "-o", "%r")
    assert status == "JobHeldUser" and starts(folder) == []
    lab.say(*command.split())
    assert driver.wait() == 0 and driver.said.count(command) == 1


def suspended(lab: Lab, folder: Path) -> None:
    driver = Driver(lab, folder, "out/a.6", "--retries", "0")
    job = started(lab, folder)
    lab.say("scontrol", "suspend", job.number)
    lab.job(folder, state="SUSPENDED")
    looks = lab.states(job.number)
    until("accounting to know", lambda: lab.states(job.number) == ["SUSPENDED"])
    assert driver.process.poll() is None, looks
    lab.say("scontrol", "resume", job.number)
    assert driver.wait() == 0 and starts(folder) == ["a.6"]


def a_node_reboots(lab: Lab, folder: Path) -> None:
    """Nothing of the job is left, and nobody tells Slurm: it finds out and starts it again; no retry is spent."""
    driver = Driver(lab, folder, "out/a.8", *resources("odd", "lab", "slurm_extra='--exclude=n7'"), "--retries", "0")
    job = started(lab, folder)
    lab.script("reboot", job.node)
    assert driver.wait() == 0
    assert starts(folder) == ["a.8", "a.8"] and lab.states(job.number)[-1] == "COMPLETED"


def as_many_jobs_as_allowed(lab: Lab, folder: Path) -> None:
    """MaxSubmitJobs is 1: the second job is submitted when the first has left, and the driver says what it waits for."""
    driver = Driver(lab, folder, "out/a.6", "out/b.1", *resources("preempt", "single"), "--retries", "0")
    until("the driver to say so", lambda: "as many of your jobs as it may (AssocMaxSubmitJobLimit)" in driver.said)
    assert driver.wait() == 0 and sorted(starts(folder)) == ["a.6", "b.1"]


def a_limit_that_refuses(lab: Lab, folder: Path) -> None:
    """A QOS that denies jobs over its limit: one paragraph, at once, and nothing is submitted."""
    driver = Driver(lab, folder, "out/a.1", *resources("preempt", "capped", "qos=short", "runtime=60"))
    assert driver.wait() == 1
    assert "QOSMaxWallDurationPerJobLimit" in driver.said and "Nothing was submitted" in driver.said
    assert "has been submitted" not in driver.said


def a_limit_that_waits(lab: Lab, folder: Path) -> None:
    """A QOS that lets such jobs wait for ever: the driver says how to shorten them."""
    driver = Driver(lab, folder, "out/a.1", *resources("preempt", "capped", "qos=patient", "runtime=60"))
    job = lab.job(folder, state="PENDING")
    until("the driver to say so", lambda: f"scontrol update JobId={job.number} TimeLimit=MINUTES" in driver.said)
    lab.say("scontrol", "update", f"JobId={job.number}", "TimeLimit=4")
    assert driver.wait() == 0


def accounting_knows_nothing(lab: Lab, folder: Path) -> None:
    """sacct answers, with a warning and without the jobs (it lags): the controller's word counts."""
    (folder / "fake").mkdir()
    fake = folder / "fake/sacct"
    fake.write_text("#!/bin/sh\necho 'sacct: warning: the database is slow' >&2\n")
    fake.chmod(0o755)
    path = {"PATH": f"{fake.parent}{os.pathsep}{lab.environment['PATH']}"}
    assert Driver(lab, folder, "out/a.1", "--retries", "0", environment=path).wait() == 0


def accounting_goes_on_saying_running(lab: Lab, folder: Path) -> None:
    """The end of the jobs never reached accounting (runaway jobs): the controller's word counts."""
    (folder / "fake").mkdir()
    fake = folder / "fake/sacct"
    fake.write_text("#!/bin/sh\n/usr/bin/sacct \"$@\" | sed 's/COMPLETED/RUNNING/; s/FAILED/RUNNING/'\n")
    fake.chmod(0o755)
    path = {"PATH": f"{fake.parent}{os.pathsep}{lab.environment['PATH']}"}
    assert Driver(lab, folder, "out/a.1", "--retries", "0", environment=path).wait() == 0
    assert Driver(lab, folder, "refused/a", "--retries", "0", environment=path).wait() == 1


SCENARIOS = [
    a_prolog_fails,
    a_node_reboots,
    as_many_jobs_as_allowed,
    suspended,
    held_by_its_user,
    a_limit_that_refuses,
    a_limit_that_waits,
    accounting_knows_nothing,
    accounting_goes_on_saying_running,
]


@pytest.mark.parametrize("scenario", [scenario.__name__ for scenario in SCENARIOS])
def test_scenario(scenario: str, probed: dict[str, Future[None]]) -> None:
    probed[scenario].result()
