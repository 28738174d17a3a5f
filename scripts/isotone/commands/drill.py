"""Rehearse preemption on this cluster: a small study, SIGTERM in the middle of an epoch, and a comparison of weights.

Two short training jobs run with your profile. The first is left alone. The second gets the signal that a preemption
sends; then it is watched how the site brings it back. Equal weights at the end mean that a preemption here loses
nothing. It takes some ten minutes where the queue is short, and changes only results/drill and results/drill-quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import yaml

from isotone.cluster.queue import own_jobs
from isotone.cluster.records import fields
from isotone.errors import ConfigurationError, InputOutputError
from isotone.records import Json, read_json
from isotone.training.identity import state_root

STUDY = Path("profiles/slurm/drill.yaml")
QUIET, HIT = "drill-quiet", "drill"
RUN = "runs/baseline/seed-42"
T = TypeVar("T")


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--profile", default="profiles/slurm", help="the Snakemake profile to rehearse")
    parser.add_argument("--step", type=int, default=60, help="training step after which the signal is sent")
    parser.add_argument("--patience", type=float, default=60, help="minutes to wait for the queue at each point")


def run(arguments: argparse.Namespace) -> int:
    """Rehearse; 0 only if the disturbed run ended in the weights of the quiet one."""
    if shutil.which("squeue") is None:
        raise ConfigurationError("No Slurm here: squeue is not on PATH. Run the drill on a login node of the cluster.")
    profile = Path(arguments.profile) / "config.yaml"
    if not profile.is_file() or not STUDY.is_file():
        raise ConfigurationError(f"{profile} or {STUDY} is missing. Run the drill in the top folder of a checkout.")
    _site(yaml.safe_load(profile.read_text(encoding="utf-8")))
    _clean()
    _say("1 of 3: the quiet run, as jobs of your profile ...")
    began = time.monotonic()
    if _driver(arguments.profile, QUIET).wait():
        raise InputOutputError("The quiet run did not finish; the driver's messages above say why.")
    _say(f"        done in {time.monotonic() - began:.0f} s (queue included)")
    _say("2 of 3: the same run, to be disturbed ...")
    shutil.copytree(f"results/{QUIET}", f"results/{HIT}", ignore=shutil.ignore_patterns("runs", "state", "logs"))
    driver = _driver(arguments.profile, HIT)
    try:
        facts = _disturb(driver, arguments.step, arguments.patience * 60)
    finally:
        if driver.poll() is None:
            driver.terminate()
    return _verdict(facts)


def _say(text: str) -> None:
    print(text, flush=True)


def _asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def _site(profile: Json) -> None:
    """Print what this site's configuration says about preemption."""
    config = dict(re.findall(r"^(\w+)\s*= (.*)$", _asked("scontrol", "show", "config"), re.M))
    defaults = profile.get("default-resources") or {}
    partition = str(defaults.get("slurm_partition", "")) if isinstance(defaults, dict) else ""
    shown = fields(_asked("scontrol", "show", "partition", partition) if partition else "")
    expire = re.search(r"cred_expire=(\d+)", config.get("AuthInfo", ""))
    _say(f"Slurm {config.get('SLURM_VERSION', '?')}, partition {partition or '(default)'}:")
    _say(f"  preemption: {config.get('PreemptType', '?')}, mode {shown.get('PreemptMode', '?')}")
    _say(f"  time for a save: GraceTime {shown.get('GraceTime', '?')} s + KillWait {config.get('KillWait', '?')}")
    _say(f"  longest job {shown.get('MaxTime', '?')}; requeue allowed by default: {config.get('JobRequeue', '?')}")
    _say(f"  a requeued job waits at least {expire.group(1) if expire else '120'} s (cred_expire)\n")


def _clean() -> None:
    """Begin anew, with the state beside the results, where nothing but the drill's own runs stand."""
    os.environ.pop("ISOTONE_STATE", None)
    for study in (QUIET, HIT):
        shutil.rmtree(f"results/{study}", ignore_errors=True)


def _driver(profile: str, study: str) -> subprocess.Popen[bytes]:
    """Snakemake for one of the two runs; its messages go to results/<study>-driver.log."""
    Path("results").mkdir(exist_ok=True)
    target = f"results/{study}/{RUN}/train.json"
    command = [sys.executable, "-m", "snakemake", "--profile", profile, "--configfile", str(STUDY)]
    command += ["--config", f"study={study}", "--", target]
    with open(f"results/{study}-driver.log", "w") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _until(what: str, ask: Callable[[], T], driver: subprocess.Popen[bytes], seconds: float) -> T:
    """Wait for an answer while the driver lives."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        if driver.poll() not in (None, 0):
            raise InputOutputError(f"The driver ended before {what}; see results/{HIT}-driver.log.")
        if time.monotonic() > end:
            raise InputOutputError(f"Waited {seconds / 60:.0f} minutes for {what}. Is the queue long? See --patience.")
        time.sleep(0.5)
    return answer


def _events(*kinds: str) -> list[dict[str, Any]]:
    """Events of the disturbed run (its state folder is new, so all are its own)."""
    files = sorted(state_root(Path(f"results/{HIT}")).glob("*/events.jsonl"), key=os.path.getmtime)
    lines = files[-1].read_text(encoding="utf-8").splitlines() if files else []
    return [event for event in map(json.loads, lines) if not kinds or event["event"] in kinds]


def _step() -> int:
    beats = sorted(state_root(Path(f"results/{HIT}")).glob("*/heartbeat*.json"), key=os.path.getmtime)
    try:
        return int(json.loads(beats[-1].read_text(encoding="utf-8"))["step"]) if beats else -1
    except (ValueError, KeyError, OSError):
        return -1


def _job() -> str:
    """Number of the Slurm job that trains, if it is in the queue."""
    mine = (job for job in own_jobs() if job.comment.startswith("rule_train") and f"_{HIT}_baseline" in job.comment)
    return next((job.number for job in mine), "")


def _disturb(driver: subprocess.Popen[bytes], step: int, patience: float) -> Json:
    """Send the signal in mid-epoch and watch what happens; times in seconds."""
    _until("the run to train", lambda: _step() >= step, driver, patience)
    number = _job()
    _say(f"        SIGTERM to job {number} at step {_step()}")
    sent = time.time()
    if _asked("scancel", "--signal=TERM", number):
        raise InputOutputError(f"scancel could not signal job {number}. May you signal your own jobs here?")
    left = _until("the run to save", lambda: _events("exit"), driver, patience)[0]
    if left["code"] == 0:
        raise InputOutputError(
            "The run was done before the signal reached it: this machine is fast. Repeat with --step 1, or with more "
            f"training.epochs in {STUDY}."
        )
    saved = datetime.fromisoformat(left["time"]).timestamp()
    _say(f"        saved {saved - sent:.1f} s after the signal, at step {left['step']}; waiting for its return ...")
    back = _until("the run to come back", lambda: _events("resume"), driver, patience)[0]
    resumed = datetime.fromisoformat(back["time"]).timestamp()
    again = _job()
    _say("3 of 3: it trains again; waiting for its end ...")
    _until("the end", lambda: driver.poll() is not None, driver, patience)
    return {
        "job": number,
        "again": again,
        "saved": saved - sent,
        "away": resumed - saved,
        "lost": left["step"] - back["step"],
        "retries": Path(f"results/{HIT}-driver.log").read_text(encoding="utf-8").count("Trying to restart job"),
    }


def _verdict(facts: Json) -> int:
    """Print what was seen and what it means."""
    digests = [
        read_json(Path(f"results/{study}/{RUN}/train.json"))["result"]["weights_sha256"] for study in (QUIET, HIT)
    ]
    same = facts["again"] in ("", facts["job"]) and facts["retries"] == 0
    _say("\nWhat this site does on preemption:")
    _say(f"  signal to saved state      {facts['saved']:8.1f} s")
    _say(f"  saved state to new steps   {facts['away']:8.1f} s   (queue and start of the program)")
    _say(f"  steps lost                 {facts['lost']:8d}")
    _say(f"  retries spent              {facts['retries']:8d}   ({'same job, requeued' if same else 'a new job'})")
    _say(f"  final weights              {'equal' if digests[0] == digests[1] else 'DIFFERENT'}: {digests[1][:16]}")
    if facts["retries"]:
        _say(
            "\nThis site does not let the job requeue itself, so each preemption costs one of the profile's `retries`.\n"
            "Raise `retries` in the profile, or ask for a partition with JobRequeue=1."
        )
    if digests[0] != digests[1]:
        _say(
            "\nThe weights differ. On nodes of different CPU or GPU types that is expected; on equal ones it is a fault."
        )
        return 1
    return 0
