"""What the rehearsals with and without Slurm share: two runs of one small study, what they tell, and the verdict."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from isotone.errors import InputOutputError
from isotone.layout import state_root
from isotone.records import Json, read_json

QUIET, HIT = "drill-quiet", "drill"
RUN = "runs/baseline/seed-42"
T = TypeVar("T")


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def clean() -> None:
    """Begin anew, with the state beside the results, where nothing but the drill's own runs stand."""
    os.environ.pop("ISOTONE_STATE", None)
    for study in (QUIET, HIT):
        shutil.rmtree(f"results/{study}", ignore_errors=True)


def driver(profile: str, study: str, file: Path, *, alone: bool = False) -> subprocess.Popen[bytes]:
    """Snakemake for one of the two runs; its messages go to results/<study>-driver.log.

    Args:
        alone: in a session of its own, so that all of it can be signalled and nothing else.
    """
    Path("results").mkdir(exist_ok=True)
    target = f"results/{study}/{RUN}/train.json"
    command = [sys.executable, "-m", "snakemake", "--profile", profile, "--configfile", str(file)]
    command += ["--config", f"study={study}", "--", target]
    with open(f"results/{study}-driver.log", "w") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=alone)


def until(what: str, ask: Callable[[], T], driver: subprocess.Popen[bytes], seconds: float) -> T:
    """Wait for an answer while the driver lives."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        if driver.poll() not in (None, 0):
            raise InputOutputError(f"The driver ended before {what}; see results/{HIT}-driver.log.")
        if time.monotonic() > end:
            raise InputOutputError(f"Waited {seconds / 60:.0f} minutes for {what}. Is the queue long? See --patience.")
        time.sleep(0.5)
    return answer


def events(*kinds: str) -> list[dict[str, Any]]:
    """Events of the disturbed run (its state folder is new, so all are its own)."""
    files = sorted(state_root(Path(f"results/{HIT}")).glob("*/events.jsonl"), key=os.path.getmtime)
    lines = files[-1].read_text(encoding="utf-8").splitlines() if files else []
    return [event for event in map(json.loads, lines) if not kinds or event["event"] in kinds]


def step_now() -> int:
    """The newest step that the disturbed run told of; -1 before the first."""
    beats = sorted(state_root(Path(f"results/{HIT}")).glob("*/heartbeat*.json"), key=os.path.getmtime)
    try:
        return int(json.loads(beats[-1].read_text(encoding="utf-8"))["step"]) if beats else -1
    except (ValueError, KeyError, OSError):
        return -1


def ended(exits: list[Json], file: Path) -> Json:
    """How the disturbed run ended.

    Raises:
        InputOutputError: it was done before the signal.
    """
    left = exits[0] if exits else {"code": 0}
    if left["code"] == 0:
        raise InputOutputError(
            "The run was done before the signal reached it: this machine is fast. Repeat with --step 1, or with more "
            f"training.epochs in {file}."
        )
    return left


def verdict(facts: Json) -> int:
    """Print what was seen and what it means."""
    digests = [
        read_json(Path(f"results/{study}/{RUN}/train.json"))["result"]["weights_sha256"] for study in (QUIET, HIT)
    ]
    how = facts.get("how")
    if how is None:
        how = "same job, requeued" if facts["again"] in ("", facts["job"]) and not facts["retries"] else "a new job"
    say("\nWhat happens here on preemption:")
    say(f"  signal to saved state      {facts['saved']:8.1f} s")
    say(f"  saved state to new steps   {facts['away']:8.1f} s   (queue and start of the program)")
    say(f"  steps lost                 {facts['lost']:8d}")
    say(f"  retries spent              {facts['retries']:8d}   ({how})")
    say(f"  final weights              {'equal' if digests[0] == digests[1] else 'DIFFERENT'}: {digests[1][:16]}")
    if facts["retries"]:
        say(
            "\nThis site does not let the job requeue itself, so each preemption costs one of the profile's `retries`.\n"
            "Raise `retries` in the profile, or ask for a partition with JobRequeue=1."
        )
    if digests[0] != digests[1]:
        say(
            "\nThe weights differ. On nodes of different CPU or GPU types that is expected; on equal ones it is a fault."
        )
        return 1
    return 0
