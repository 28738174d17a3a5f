"""One scenario: its own checkout, its own emulated node, one training run, and what came of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from tests.slurm.lab import HERE, NODES, ROOT, Driver, Job, Lab, until

PARTS = ["Snakefile", "rules", "scripts", "config", "profiles", "envs", "report", "requirements.lock"]
T = TypeVar("T")
MARKER = "results/drill/runs/{arm}/seed-42/train.json"


def checkout(folder: Path) -> Path:
    """The workflow as a fresh clone has it, with the study of these tests."""
    folder.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(ROOT / part, folder / part)
    shutil.copy2(ROOT / "profiles/slurm/drill.yaml", folder / "study.yaml")
    shutil.copytree(HERE / "slow", folder / "slow", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "profiles/slurm/site.sh").write_text('export PYTHONPATH="$PWD/slow"\n')
    return folder


def quiet_run(folder: Path, arms: list[str]) -> dict[str, str]:
    """Run the study on this machine, undisturbed; SHA-256 of the final weights per arm."""
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "--configfile", "study.yaml", "--"]
    done = subprocess.run(
        command + [MARKER.format(arm=arm) for arm in arms],
        cwd=folder,
        env=Lab(folder, 0).environment | {"SLURM_CONF": "/dev/null"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:] + done.stderr[-3000:])
    return digests(folder, arms)


def digests(folder: Path, arms: list[str]) -> dict[str, str]:
    """SHA-256 of the final weights that a quiet run left, per arm."""
    return {arm: json.loads((folder / MARKER.format(arm=arm)).read_text())["result"]["weights_sha256"] for arm in arms}


class Scene:
    """A checkout whose study is ready to train, and drivers for it."""

    def __init__(self, lab: Lab, reference: Path, expected: dict[str, str], folder: Path, *nodes: str) -> None:
        """Everything up to the constrained starts is copied from the undisturbed run."""
        self.lab, self.expected, self.folder, self.nodes = lab, expected, folder, nodes
        checkout(folder)
        skip = shutil.ignore_patterns("runs", "state", "logs", "timings")
        shutil.copytree(reference / "results", folder / "results", ignore=skip)
        self.arm, self.number = "baseline", ""
        self.drivers: list[Driver] = []

    @property
    def marker(self) -> Path:
        """The last file of the run."""
        return self.folder / MARKER.format(arm=self.arm)

    def on_its_nodes(self, rule: str, extra: str = "") -> str:
        """The resource that holds a rule's jobs to this scene's nodes."""
        others = ",".join(node for node in NODES if node not in self.nodes)
        return f"{rule}:slurm_extra='--open-mode=append --exclude={others} {extra}'"

    def drive(self, *options: str, extra: str = "", environment: dict[str, str] | None = None) -> Driver:
        """The study's driver, its jobs held to this scene's nodes."""
        rule = "train_baseline" if self.arm == "baseline" else "train_monotonic"
        resources = [self.on_its_nodes(rule, extra), f"{rule}:mem_mb=2000"]
        given = [option for option in options if re.match(r"\w+=", option)]
        rest = [option for option in options if option not in given]
        resources += [f"{rule}:{option}" for option in given]
        target = str(self.marker.relative_to(self.folder))
        command = ["--configfile", "study.yaml", "--set-resources", *resources, *rest, "--", target]
        self.drivers.append(Driver(self.lab, self.folder, *command, environment=environment))
        return self.drivers[-1]

    def until(self, what: str, condition: Callable[[], T], seconds: float = 600, every: float = 0.1) -> T:
        """Wait for what a healthy run comes to by itself; a job that fails meanwhile, or a driver's end, ends the wait."""
        before = sum(driver.failures for driver in self.drivers)

        def reached() -> T:
            if not (value := condition()) and (
                sum(driver.failures for driver in self.drivers) > before
                or (self.drivers and all(driver.process.poll() is not None for driver in self.drivers))
            ):
                assert condition(), f"{what} in {self.folder} will not come:\n{self.last_words()}"
            return value

        return until(f"{what} in {self.folder}", reached, seconds, every)

    def last_words(self) -> str:
        """The ends of the newest log of each kind: driver, Slurm, training program."""
        kinds = ["*driver*.log", ".snakemake/slurm_logs/*/*/*.log", "results/drill/logs/train/*.log"]
        newest = [max(found, key=os.path.getmtime) for kind in kinds if (found := list(self.folder.glob(kind)))]
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-1500:]}" for path in newest)

    def job(self, state: str = "RUNNING", seconds: float = 900) -> Job:
        """The training job, once it is in that state."""
        job = self.until(f"a {state} job", lambda: self.lab.jobs(self.folder, "rule_train", state), seconds, every=0.2)[
            0
        ]
        self.number = self.number or job.number
        return job

    @property
    def state(self) -> Path:
        """The run's state folder."""
        return next(path for path in (self.folder / "results/drill/state").iterdir() if path.is_dir())

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """What the run noted of these kinds, oldest first."""
        files = list((self.folder / "results/drill/state").glob("*/events.jsonl"))
        text = files[0].read_text() if files else ""
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last one may be being written
        return [event for event in map(json.loads, lines) if not kinds or event["event"] in kinds]

    def step(self) -> int:
        """The newest step the run told of."""
        for beat in (self.folder / "results/drill/state").glob("*/heartbeat*.json"):
            try:
                return int(json.loads(beat.read_text())["step"])
            except (ValueError, KeyError, TypeError, OSError):
                continue
        return -1

    def at_step(self, step: int, seconds: float = 900) -> Job:
        """Wait until the run has come so far; its job."""
        self.until(f"step {step}", lambda: self.step() >= step, seconds)
        return self.job()

    @contextmanager
    def hold(self, step: int, *, until_ended: bool = True) -> Iterator[Job]:
        """Keep the run at a step, so that no machine is too fast for what is done to it here; its job.

        Args:
            until_ended: what is done ends the program, and it is held until then.
        """
        sign = self.folder / "hold"
        sign.write_text(str(step))
        try:
            job = self.at_step(step)
            program = Path(f"/proc/{self.pid()}")
            yield job
            if until_ended:
                until(f"the program to end in {self.folder}", lambda: not program.exists(), 600)
        finally:
            sign.unlink()

    def limit(self, job: Job, minutes: int) -> None:
        """Give the job so long in all, from its start on."""
        self.lab.say("scontrol", "update", f"JobId={job.number}", f"TimeLimit={minutes}")

    def preempt(self, job: Job) -> None:
        """Take the node away until the job is out, then give it back."""
        guest = self.lab.preempt(job)
        until("the preempted job to be out", lambda: not self.lab.jobs(self.folder, "rule_train", "RUNNING"), 600)
        until(
            "the guest to run",
            lambda: "RUNNING" in self.lab.say("squeue", "-h", "-j", guest, "-o", "%T", check=False),
            300,
        )
        self.lab.say("scancel", guest)

    @contextmanager
    def slow(self, what: str, seconds: float) -> Iterator[None]:
        """Stretch validation or saving, wait until the run is there, then undo it at the end."""
        (self.folder / f"slow-{what}").write_text(str(seconds))
        sign = self.folder / {"validation": "validating", "save": "saving"}[what]
        self.until(f"the {what}", sign.exists, 900, every=0.05)
        try:
            yield
        finally:
            (self.folder / f"slow-{what}").unlink()

    def lost(self) -> int:
        """Steps computed twice, over all orderly ends."""
        lost, left = 0, None
        for event in self.events("exit", "resume"):
            if event["event"] == "exit":
                left = event["step"]
            elif left is not None:
                lost, left = lost + left - event["step"], None
        return lost

    def finish(
        self, driver: Driver, *, requeues: int | None = None, retries: int | None = 0, lost: int | None = 0
    ) -> None:
        """The end that every scenario must come to: done by itself, the same weights, nothing twice."""
        assert driver.wait() == 0, driver.said[-3000:]
        marker = json.loads(self.marker.read_text())
        assert marker["result"]["weights_sha256"] == self.expected[self.arm]
        steps = [int(line.split(",")[0]) for line in (self.marker.parent / "history.csv").read_text().splitlines()[1:]]
        assert steps == sorted(set(steps)) and len(steps) >= marker["result"]["steps"]
        if retries is not None:
            assert driver.said.count("Trying to restart job") == retries, driver.said[-3000:]
        if requeues is not None:  # not accounting's records: newer Slurm writes two for one preemption
            starts = self.events("start", "resume")
            assert len(starts) == requeues + (retries or 0) + 1, (starts, self.lab.states(self.number))
        if lost is not None:
            assert self.lost() == lost, self.events("exit", "resume")

    def pid(self) -> int:
        """Process id of the training program itself (the lab's nodes are this machine)."""
        return self.events("start", "resume")[-1]["pid"]

    def devices(self, who: str) -> list[str]:
        """What Slurm gave each start's ``supervisor``, or the ``launcher`` on each node of several, to see."""
        lines = (self.folder / "devices").read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith(who)]

    def end_program(self, number: int = signal.SIGKILL) -> None:
        """Send the training program a signal."""
        os.kill(self.pid(), number)


def seconds_between(first: str, second: str) -> float:
    """Seconds from one event's time to another's."""
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()
