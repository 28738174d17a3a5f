"""Rehearse preemption: a small study, SIGTERM in the middle of an epoch, and a comparison of weights.

Two short training jobs run with your profile (with --local: on this machine, without Slurm). The first is left alone.
The second gets the signal that a preemption sends; then it is watched how the site brings it back. Equal weights at the
end mean that a preemption here loses nothing. It takes some ten minutes where the queue is short, less with --local, and
changes only results/drill and results/drill-quiet.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import time
from datetime import datetime
from pathlib import Path

import yaml

from isotone.cluster.queue import own_jobs
from isotone.cluster.records import fields
from isotone.commands.drill_local import rehearse
from isotone.commands.rehearsal import HIT, QUIET, clean, driver, ended, events, say, step_now, until, verdict
from isotone.errors import ConfigurationError, InputOutputError
from isotone.records import Json

STUDY = Path("profiles/slurm/drill.yaml")


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--local", action="store_true", help="rehearse on this machine, without Slurm")
    parser.add_argument("--study", type=Path, default=STUDY, help="the study to rehearse (default: %(default)s)")
    parser.add_argument("--profile", default="profiles/slurm", help="the Snakemake profile to rehearse")
    parser.add_argument("--step", type=int, default=60, help="training step after which the signal is sent")
    parser.add_argument("--patience", type=float, default=60, help="minutes to wait for the queue at each point")


def run(arguments: argparse.Namespace) -> int:
    """Rehearse; 0 only if the disturbed run ended in the weights of the quiet one."""
    if not arguments.local and shutil.which("squeue") is None:
        raise ConfigurationError(
            "No Slurm here: squeue is not on PATH. Run the drill on a login node of the cluster, or say --local to "
            "rehearse on this machine."
        )
    profile = Path("profiles/local" if arguments.local else arguments.profile) / "config.yaml"
    if not profile.is_file() or not arguments.study.is_file():
        raise ConfigurationError(
            f"{profile} or {arguments.study} is missing. Run the drill in the top folder of a checkout."
        )
    if arguments.local:
        return rehearse(arguments.study, arguments.step, arguments.patience * 60)
    _site(yaml.safe_load(profile.read_text(encoding="utf-8")))
    clean()
    say("1 of 3: the quiet run, as jobs of your profile ...")
    began = time.monotonic()
    if driver(arguments.profile, QUIET, arguments.study).wait():
        raise InputOutputError("The quiet run did not finish; the driver's messages above say why.")
    say(f"        done in {time.monotonic() - began:.0f} s (queue included)")
    say("2 of 3: the same run, to be disturbed ...")
    shutil.copytree(f"results/{QUIET}", f"results/{HIT}", ignore=shutil.ignore_patterns("runs", "state", "logs"))
    disturbed = driver(arguments.profile, HIT, arguments.study)
    try:
        facts = _disturb(disturbed, arguments.step, arguments.patience * 60, arguments.study)
    finally:
        if disturbed.poll() is None:
            disturbed.terminate()
    return verdict(facts)


def _asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def _site(profile: Json) -> None:
    """Print what this site's configuration says about preemption."""
    config = dict(re.findall(r"^(\w+)\s*= (.*)$", _asked("scontrol", "show", "config"), re.M))
    defaults = profile.get("default-resources") or {}
    partition = str(defaults.get("slurm_partition", "")) if isinstance(defaults, dict) else ""
    shown = fields(_asked("scontrol", "show", "partition", partition) if partition else "")
    expire = re.search(r"cred_expire=(\d+)", config.get("AuthInfo", ""))
    say(f"Slurm {config.get('SLURM_VERSION', '?')}, partition {partition or '(default)'}:")
    say(f"  preemption: {config.get('PreemptType', '?')}, mode {shown.get('PreemptMode', '?')}")
    say(f"  time for a save: GraceTime {shown.get('GraceTime', '?')} s + KillWait {config.get('KillWait', '?')}")
    say(f"  longest job {shown.get('MaxTime', '?')}; requeue allowed by default: {config.get('JobRequeue', '?')}")
    say(f"  a requeued job waits at least {expire.group(1) if expire else '120'} s (cred_expire)\n")


def _job() -> str:
    """Number of the Slurm job that trains, if it is in the queue."""
    mine = (job for job in own_jobs() if job.comment.startswith("rule_train") and f"_{HIT}_baseline" in job.comment)
    return next((job.number for job in mine), "")


def _disturb(driver: subprocess.Popen[bytes], step: int, patience: float, file: Path = STUDY) -> Json:
    """Send the signal in mid-epoch and watch what happens; times in seconds."""
    until("the run to train", lambda: step_now() >= step, driver, patience)
    number = _job()
    say(f"        SIGTERM to job {number} at step {step_now()}")
    sent = time.time()
    if _asked("scancel", "--signal=TERM", number):
        raise InputOutputError(f"scancel could not signal job {number}. May you signal your own jobs here?")
    left = ended(until("the run to save", lambda: events("exit"), driver, patience), file)
    saved = datetime.fromisoformat(left["time"]).timestamp()
    say(f"        saved {saved - sent:.1f} s after the signal, at step {left['step']}; waiting for its return ...")
    back = until("the run to come back", lambda: events("resume"), driver, patience)[0]
    resumed = datetime.fromisoformat(back["time"]).timestamp()
    again = _job()
    say("3 of 3: it trains again; waiting for its end ...")
    until("the end", lambda: driver.poll() is not None, driver, patience)
    return {
        "job": number,
        "again": again,
        "saved": saved - sent,
        "away": resumed - saved,
        "lost": left["step"] - back["step"],
        "retries": Path(f"results/{HIT}-driver.log").read_text(encoding="utf-8").count("Trying to restart job"),
    }
