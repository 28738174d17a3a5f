"""Parts of the cluster fail while studies run on it: each ends by itself in the bits of a quiet local run.

One storm, four studies: while they train, the controller is away for 30 s, then accounting, then one node's daemon is
killed and one node is set down. Every study lives through all of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.lab import NODES, Driver, Lab, until
from tests.slurm.scene import Scene

AWAY = 30


class Storm:
    """Four scenes and their drivers, and the order of events."""

    def __init__(self, lab: Lab, reference: tuple[Path, dict[str, str]], base: Path) -> None:
        """Each scene has two nodes, so that it can go on elsewhere when one is lost."""
        pairs = {"running": NODES[:1], "late": NODES[1:2], "zombie": NODES[2:4], "lost": NODES[4:6]}
        self.lab = lab
        self.scenes = {name: Scene(lab, *reference, base / name, *nodes) for name, nodes in pairs.items()}
        self.drivers: dict[str, Driver] = {}

    def start(self, name: str) -> None:
        """Start one scene's driver; steps wait a little, so that the storm finds all of them at work."""
        (self.scenes[name].folder / "slow-validation").write_text("5")
        self.drivers[name] = self.scenes[name].drive()

    def rage(self) -> None:
        """What happens to the cluster."""
        for name in ("running", "zombie", "lost"):
            self.start(name)
        jobs = {name: self.scenes[name].at_step(40) for name in self.drivers}

        self.lab.script("kill", "slurmctld")
        self.start("late")  # its submission finds no controller
        time.sleep(AWAY)
        self.lab.script("start", "slurmctld")

        self.scenes["late"].job()
        self.lab.script("kill", "slurmdbd")
        time.sleep(AWAY)
        self.lab.script("start", "slurmdbd")

        self.lab.script("kill", f"slurmd-{jobs['zombie'].node}")
        self.lab.say("scontrol", "update", f"nodename={jobs['lost'].node}", "state=down", "reason=storm")
        until("the daemon's node to be down", lambda: self.down(jobs["zombie"].node), 300)
        for scene in self.scenes.values():
            (scene.folder / "slow-validation").unlink()

    def down(self, node: str) -> bool:
        """Whether the controller gave a node up."""
        # Not sinfo's filter: while the node's job is completing, which a dead daemon never tells, it matches nothing.
        return "State=DOWN" in self.lab.say("scontrol", "-o", "show", "node", node, check=False)


@pytest.fixture(scope="module")
def storm(
    lab: Lab, reference: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Storm]:
    storm = Storm(lab, reference, tmp_path_factory.mktemp("storm"))
    storm.rage()
    yield storm
    for driver in storm.drivers.values():
        driver.kill()
    for node in NODES:
        lab.script("start", f"slurmd-{node}")
        lab.say("scontrol", "update", f"nodename={node}", "state=resume", check=False)
    until("all nodes to be back", lambda: not any(storm.down(node) for node in NODES), 600)


def test_a_running_job_and_its_driver_live_without_controller_and_accounting(storm: Storm) -> None:
    storm.scenes["running"].finish(storm.drivers["running"])
    assert len(storm.scenes["running"].events("start", "resume")) == 1


def test_a_submission_waits_for_the_controller(storm: Storm) -> None:
    storm.scenes["late"].finish(storm.drivers["late"])


def test_a_node_that_is_set_down_costs_no_retry(storm: Storm) -> None:
    storm.scenes["lost"].finish(storm.drivers["lost"], lost=None)


def test_a_zombie_on_a_dead_node_and_its_successor_never_train_at_once(storm: Storm) -> None:
    scene = storm.scenes["zombie"]
    scene.finish(storm.drivers["zombie"], lost=None)
    alive = 0
    for event in scene.events("start", "resume", "exit"):
        alive += -1 if event["event"] == "exit" else 1
        assert alive <= 1
