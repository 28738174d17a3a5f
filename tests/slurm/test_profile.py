"""The profile as users type it, GPUs, several nodes, a driver that is itself a job."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.lab import Lab, until
from tests.slurm.scene import Scene, checkout


def test_the_literal_command_submits_with_the_profiles_resources(lab: Lab, tmp_path: Path) -> None:
    """`snakemake --profile profiles/slurm`, nothing else: Slurm holds the first job with what config.yaml asks for."""
    folder = checkout(tmp_path / "checkout")
    command = [Path(sys.executable).with_name("snakemake"), "--profile", "profiles/slurm"]
    with open(folder / "driver.log", "w") as log:
        driver = subprocess.Popen(command, cwd=folder, env=lab.environment, stdout=log, stderr=log)
    try:
        job = until("a job", lambda: lab.jobs(folder), 300)[0]
        shown = lab.say("scontrol", "-o", "show", "job", job.number)
    finally:
        driver.kill()
        driver.wait()
        lab.say("scancel", *(job.number for job in lab.jobs(folder)), check=False)
    for expected in ("Partition=preempt", "Account=lab", "TimeLimit=01:00:00", "Requeue=1", "mem=2000M", "rule_corpus"):
        assert expected in shown.replace("mem=2G", "mem=2000M"), shown


def test_the_doctor_asks_this_cluster(lab: Lab, tmp_path: Path) -> None:
    """Each rule's resources by `sbatch --test-only`, and the grace of the partition that trains, not of others."""
    folder = checkout(tmp_path / "checkout")
    environment = lab.environment | {"PYTHONPATH": str(folder / "scripts"), "COLUMNS": "300"}
    command = [sys.executable, "-m", "isotone", "doctor", "--configfile", "study.yaml", "--profile", "profiles/slurm"]

    def ask() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)

    sound = ask()
    assert sound.returncode == 0, sound.stdout + sound.stderr
    for rule in ("default", "train_baseline", "train_monotonic", "pretrain"):
        assert re.search(rf"ok +jobs of {rule}: sbatch: Job \d+ to start", sound.stdout), sound.stdout
    assert "the cluster gives 30 s between signal and kill, operation.grace says 20 s" in sound.stdout
    profile = folder / "profiles/slurm/config.yaml"
    profile.write_text(profile.read_text().replace("slurm_partition: preempt", "slurm_partition: brief"))
    assert "the cluster gives 10 s between signal and kill" in ask().stdout
    profile.write_text(profile.read_text().replace("slurm_partition: brief", "slurm_partition: nowhere"))
    wrong = ask()
    assert wrong.returncode != 0 and "invalid partition specified: nowhere" in wrong.stdout, wrong.stdout
    assert not lab.jobs(folder)


def status_of(scene: Scene) -> dict[str, Any]:
    """What `isotone status --json` says of the scene's study."""
    command = [sys.executable, "-m", "isotone", "status", "drill", "--json"]
    environment = scene.lab.environment | {"PYTHONPATH": str(scene.folder / "scripts")}
    done = subprocess.run(command, cwd=scene.folder, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def one_node_several_gpus(scene: Scene) -> None:
    """As many processes as GPUs, without being told."""
    driver = scene.drive("gpu=2")
    with scene.hold(60) as job:
        assert "gres/gpu=2" in scene.lab.say("scontrol", "-o", "show", "job", job.number)
        seen = status_of(scene)
        run = next(run for run in seen["runs"] if run["name"] == "baseline/seed-42")
        assert run["state"] == "running" and run["queue"] == f"running {job.number}" and run["step"] >= 60
        scene.preempt(job)
    scene.finish(driver, requeues=1)
    assert {event["processes"] for event in scene.events("start", "resume")} == {2}
    assert scene.devices("supervisor") == scene.devices("launcher") == ["0,1"] * 2


def several_nodes(scene: Scene) -> None:
    driver = scene.drive("mpi='srun'", "nodes=2", "tasks=2", "gres='gpu:1'", "tasks_per_gpu=0", "processes=2")
    with scene.hold(60) as job:
        scene.preempt(job)
    scene.finish(driver, requeues=1)
    assert {event["processes"] for event in scene.events("start", "resume")} == {2}
    assert scene.devices("launcher") == ["0"] * 4  # two nodes, two starts


def driver_as_a_job(scene: Scene) -> None:
    """Put back into the queue in the middle, it finds its own lock, ends what it left behind and carries on."""
    call = ["sbatch", "--parsable", "-A", "lab", "-p", "high", f"--nodelist={scene.nodes[0]}"]
    # The rest of the study is not wanted here, nor another scene's node, on which that scene's guest would hit it.
    options = ["--until", "train_baseline", "--set-resources", scene.on_its_nodes("train_baseline")]
    options += ["--seconds-between-status-checks", "3"]
    number = subprocess.run(
        [*call, "profiles/slurm/driver.sbatch", "study.yaml", *options],
        cwd=scene.folder,
        env=scene.lab.environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    log = scene.folder / f"isotone-driver-{number}.log"
    with scene.hold(40):
        scene.lab.say("scontrol", "requeue", number)
        until("the orphan to be found", lambda: "left over from an earlier driver" in log.read_text(), 600)
    until("the marker", scene.marker.exists, 600)
    assert json.loads(scene.marker.read_text())["result"]["weights_sha256"] == scene.expected["baseline"]
    assert scene.lost() == 0
    scene.lab.say("scancel", number, check=False)


def drill(scene: Scene) -> None:
    """The rehearsal that users run on their own partition."""
    features = ["availablefeatures=rehearsal", "activefeatures=rehearsal"]  # keeps it off the nodes of other scenes
    scene.lab.say("scontrol", "update", f"nodename={scene.nodes[0]}", *features)
    command = [sys.executable, "-m", "isotone", "drill", "--patience", "10"]
    environment = scene.lab.environment | {
        "PYTHONPATH": str(scene.folder / "scripts"),
        "SBATCH_CONSTRAINT": "rehearsal",
    }
    done = subprocess.run(command, cwd=scene.folder, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GraceTime 20 s + KillWait 10" in done.stdout and "final weights              equal" in done.stdout
    assert "same job, requeued" in done.stdout and re.search(r"steps lost +0\n", done.stdout)


several_nodes.nodes = 2  # type: ignore[attr-defined]

FIRST = 0  # these take longest
SCENARIOS = [drill, several_nodes, one_node_several_gpus, driver_as_a_job]


@pytest.mark.parametrize("scenario", [scenario.__name__ for scenario in SCENARIOS])
def test_scenario(scenario: str, played: dict[str, Future[None]]) -> None:
    played[scenario].result()
