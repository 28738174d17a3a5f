"""A handle on the lab's Slurm and on Snakemake drivers that use it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCRIPT = HERE / "lab.sh"
T = TypeVar("T")
STOPPED = threading.Event()  # the session ends: scenarios still at play must not hold it up
NODES = [f"n{index}" for index in range(1, 7)]

# Tests look more often than a real driver should.
QUICK = ["--seconds-between-status-checks", "3", "--slurm-init-seconds-before-status-checks", "2"]
QUICK += ["--max-status-checks-per-second", "1", "--latency-wait", "10"]


def until(what: str, condition: Callable[[], T], seconds: float = 600, every: float = 0.2) -> T:
    """Wait for a condition to hold and give its value; fail with ``what`` otherwise."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if STOPPED.is_set():
            raise InterruptedError("the session ends")
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(every)
    return value


class Job(NamedTuple):
    """One line of squeue."""

    number: str
    state: str
    folder: str
    comment: str
    node: str
    restarts: int


class Lab:
    """The emulated cluster."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.drivers: list[subprocess.Popen[bytes]] = []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        self.environment = inherited | {
            "ISOTONE_LAB": str(folder),
            "ISOTONE_LAB_PORT": str(port),
            "ISOTONE_LAB_NODES": str(len(NODES)),
            "SLURM_CONF": str(folder / "etc/slurm.conf"),
            # Snakemake's own Python first, as in a shell whose environment is active.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}{os.pathsep}/usr/sbin",
            "OMP_NUM_THREADS": "1",
        }

    def script(self, *arguments: str) -> None:
        """Run lab.sh; its message becomes the error."""
        done = subprocess.run(["bash", str(SCRIPT), *arguments], env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"lab.sh {' '.join(arguments)}: {done.stderr}{done.stdout}")

    def say(self, *command: str, check: bool = True) -> str:
        """A Slurm command's output."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def jobs(self, folder: Path, comment: str = "", state: str = "") -> list[Job]:
        """Jobs in the queue that were submitted from ``folder``."""
        text = self.say(
            "squeue",
            "-h",
            "-O",
            "JobID:20|,State:20|,WorkDir:400|,Comment:200|,NodeList:50|,RestartCnt:10",
            check=False,
        )
        rows = [[part.strip() for part in line.split("|")] for line in text.splitlines()]
        jobs = [Job(*row[:5], int(row[5] or 0)) for row in rows if len(row) == 6]
        return [job for job in jobs if job.folder == str(folder) and comment in job.comment and state in job.state]

    def job(self, folder: Path, comment: str = "", state: str = "RUNNING", seconds: float = 900) -> Job:
        """The one job of ``folder``, once it is in that state."""
        return until(f"a {state} job of {folder}", lambda: self.jobs(folder, comment, state), seconds)[0]

    def preempt(self, job: Job) -> str:
        """Take the job's node away with a job of the partition that preempts; returns that job's number."""
        size = ["--mem=1G", "--exclusive", f"--nodelist={job.node}", "-p", "high", "-A", "lab"]
        return self.say("sbatch", "--parsable", "-o", "/dev/null", *size, "--wrap", "sleep 3600")

    def states(self, number: str) -> list[str]:
        """What accounting knows of one job: one state per start."""
        text = self.say("sacct", "-X", "-D", "-n", "-P", "-j", number, "-o", "State", check=False)
        return [line.split(" ")[0] for line in text.splitlines()]


class Driver:
    """One `snakemake --profile profiles/slurm` in its own folder."""

    def __init__(self, lab: Lab, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.lab, self.folder = lab, folder
        self.log = folder / "driver.log"
        if STOPPED.is_set():
            raise InterruptedError("the session ends")
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", "--profile", "profiles/slurm", *QUICK, *options],
                cwd=folder,
                env=lab.environment | (environment or {}),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        lab.drivers.append(self.process)

    @property
    def said(self) -> str:
        """All that the driver printed."""
        return self.log.read_text()

    @property
    def failures(self) -> int:
        """Jobs that it has seen fail."""
        return self.said.count("Trying to restart job") + self.said.count("Error in rule")

    def wait(self, seconds: float = 1200) -> int:
        """Wait for its end; a driver that hangs is killed and fails the test."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"the driver in {self.folder} hangs:\n{self.said[-3000:]}") from None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the driver alone."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()


def probe(folder: Path) -> Path:
    """A checkout with the probe workflow and the real profile."""
    folder.mkdir(parents=True)
    for file in (HERE / "probe").iterdir():
        shutil.copy2(file, folder / file.name)
    shutil.copytree(ROOT / "profiles/slurm", folder / "profiles/slurm", ignore=shutil.ignore_patterns("__pycache__"))
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "scripts/isotone", folder / "scripts/isotone", ignore=ignored)
    shutil.copy2(ROOT / "requirements.lock", folder / "requirements.lock")
    return folder
