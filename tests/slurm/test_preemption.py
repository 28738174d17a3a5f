"""Whatever Slurm does to a training job: it ends by itself in the bits of an undisturbed local run."""

from __future__ import annotations

import signal
from concurrent.futures import Future

import pytest

from tests.slurm.lab import Driver, until
from tests.slurm.scene import Scene


def preempted_in_mid_epoch(scene: Scene) -> None:
    scene.arm = "mlp_both"
    driver = scene.drive()
    with scene.hold(60) as job:
        scene.preempt(job)
    scene.finish(driver, requeues=1)
    assert scene.events("signal")[0]["name"] == "SIGTERM"


def preempted_during_validation(scene: Scene) -> None:
    driver = scene.drive()
    with scene.slow("validation", 2.0):
        guest = scene.lab.preempt(scene.job())
        until("the signal", lambda: scene.events("exit"), 600)
    until("the job to be out", lambda: not scene.lab.jobs(scene.folder, "rule_train", "RUNNING"), 600)
    scene.lab.say("scancel", guest)
    scene.finish(driver, requeues=1)


def preempted_during_a_save(scene: Scene) -> None:
    driver = scene.drive()
    with scene.slow("save", 0.7):
        scene.preempt(scene.job())
    scene.finish(driver, requeues=1)


def preempted_three_times(scene: Scene) -> None:
    driver = scene.drive()
    for step in (50, 150, 250):
        with scene.hold(step) as job:
            scene.preempt(job)
    scene.finish(driver, requeues=3)


def grace_shorter_than_a_save(scene: Scene) -> None:
    """No grace but KillWait (10 s), and a save that takes longer: the steps since the last good save are lost, no more."""
    driver = scene.drive("slurm_partition=brief")
    with scene.hold(60) as job:
        saved = scene.events("save")[-1]["step"]
        with scene.slow("save", 20):
            scene.preempt(job)
    scene.finish(driver, requeues=1, lost=None)
    resumed = scene.events("resume")[0]["step"]
    assert saved <= resumed


def requeued_by_an_administrator(scene: Scene) -> None:
    driver = scene.drive()
    with scene.hold(60) as job:
        scene.lab.say("scontrol", "requeue", job.number)
    scene.finish(driver, requeues=1)


def time_limit(scene: Scene) -> None:
    """The limit comes near while it trains: told a minute or two before, it saves and goes back into the queue."""
    driver = scene.drive(extra="--signal=TERM@60")
    with scene.hold(60) as job:  # only now, so that no machine is too slow to train before the signal comes
        passed = scene.lab.say("squeue", "-h", "-j", job.number, "-o", "%M")
        scene.limit(job, minutes=int(passed.split(":")[-2]) + 2)
        scene.until("the early signal", lambda: scene.events("signal"), 300)
    scene.job("PENDING")
    scene.limit(job, minutes=60)
    scene.finish(driver, requeues=1)
    assert "TIMEOUT" not in scene.lab.states(job.number)


def one_epoch_per_run(scene: Scene) -> None:
    driver = scene.drive("max_epochs_per_run=1")
    scene.job()
    scene.finish(driver, requeues=3)


def cancelled_by_the_user(scene: Scene) -> None:
    """The driver sees it and submits again; what was saved on the signal is there."""
    driver = scene.drive()
    with scene.hold(60) as job:
        scene.lab.say("scancel", job.number)
    scene.finish(driver, requeues=0, retries=1)
    assert scene.lab.states(scene.number) == ["CANCELLED"]


def killed_program(scene: Scene) -> None:
    driver = scene.drive()
    with scene.hold(60):
        scene.end_program(signal.SIGKILL)
    scene.finish(driver, retries=1, lost=None)


def over_memory(scene: Scene) -> None:
    """Slurm kills what exceeds its request; the next attempt asks for more."""
    driver = scene.drive("mem_mb=300 if attempt == 1 else 2000")
    scene.finish(driver, retries=1, lost=None)


def driver_killed(scene: Scene) -> None:
    """Its job goes on; --unlock and the same command: one training at any time, the same bits."""
    first = scene.drive()
    with scene.hold(40) as old:
        first.kill(signal.SIGKILL)
        assert Driver(scene.lab, scene.folder, "--configfile", "study.yaml", "--unlock").wait(300) == 0
        second = scene.drive()
    scene.finish(second)
    assert f"Slurm job {old.number} " in second.said
    alive = 0
    for event in scene.events("start", "resume", "exit"):
        alive += -1 if event["event"] == "exit" else 1
        assert alive <= 1


def driver_terminated(scene: Scene) -> None:
    """SIGTERM: the driver submits nothing more, waits for its jobs and leaves them whole."""
    driver = scene.drive()
    with scene.hold(40, until_ended=False):
        driver.kill(signal.SIGTERM)
    driver.wait()
    again = scene.drive()
    scene.finish(again)
    assert len(scene.events("start", "resume")) == 1


def two_drivers(scene: Scene) -> None:
    """Two users in two clones at the same time, each with its own state: neither knows of the other."""
    other = Scene(scene.lab, scene.folder, scene.expected, scene.folder.with_name("clone"), *scene.nodes)
    first, second = scene.drive(), other.drive()
    scene.finish(first)
    other.finish(second)


def halted(scene: Scene) -> None:
    """HALT outlasts retries and requeues; removing it lets the same command finish."""
    driver = scene.drive()
    halt = scene.folder / "results/drill/HALT"
    with scene.hold(60):
        halt.touch()
    assert driver.wait(900) == 1
    assert "isotone: halted" in driver.said and scene.events("exit")[-1]["code"] == 75
    starts = len(scene.events("start", "resume"))
    again = scene.drive()
    assert again.wait(900) == 1 and len(scene.events("start", "resume")) == starts
    halt.unlink()
    scene.finish(scene.drive(), retries=None)


def refused(scene: Scene) -> None:
    """Exit 78 is said once and not tried again; with the cause mended the same command works."""
    config = scene.folder / "results/drill/starts/baseline/model/config.json"
    text = config.read_text()
    config.write_text(text.replace("gpt_neox", "gpt_nonsense"))
    driver = scene.drive()
    assert driver.wait(900) == 1
    assert "isotone: refused (78)" in driver.said and "has been submitted" in driver.said
    assert driver.said.count("has been submitted") == 1
    config.write_text(text)
    for refusal in (scene.folder / "results/drill/state").glob("*/refused.json"):
        refusal.unlink()
    scene.finish(scene.drive(), retries=None)


FIRST = 1
SCENARIOS = [
    preempted_three_times,
    preempted_in_mid_epoch,
    preempted_during_validation,
    preempted_during_a_save,
    grace_shorter_than_a_save,
    requeued_by_an_administrator,
    time_limit,
    one_epoch_per_run,
    cancelled_by_the_user,
    killed_program,
    over_memory,
    driver_killed,
    driver_terminated,
    two_drivers,
    halted,
    refused,
]


@pytest.mark.parametrize("scenario", [scenario.__name__ for scenario in SCENARIOS])
def test_scenario(scenario: str, played: dict[str, Future[None]]) -> None:
    played[scenario].result()
