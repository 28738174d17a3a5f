"""The rehearsal without Slurm: SIGTERM to all that runs, as where a machine is taken away, then the same command again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

from isotone.commands import rehearsal
from isotone.errors import InputOutputError

PROFILE = "profiles/local"


def rehearse(study: Path, step: int, patience: float) -> int:
    """Train twice on this machine, disturb the second run; 0 only if both end in the same weights.

    Args:
        step: training step after which the signal is sent.
        patience: seconds to wait at each point.

    Raises:
        InputOutputError: a run did not finish, or was done before the signal reached it.
    """
    rehearsal.clean()
    rehearsal.say("1 of 3: the quiet run, on this machine ...")
    began = time.monotonic()
    if rehearsal.driver(PROFILE, rehearsal.QUIET, study).wait():
        raise InputOutputError(f"The quiet run did not finish; see results/{rehearsal.QUIET}-driver.log.")
    rehearsal.say(f"        done in {time.monotonic() - began:.0f} s\n2 of 3: the same run, to be disturbed ...")
    skip = shutil.ignore_patterns("runs", "state", "logs")
    shutil.copytree(f"results/{rehearsal.QUIET}", f"results/{rehearsal.HIT}", ignore=skip)
    driver = rehearsal.driver(PROFILE, rehearsal.HIT, study, alone=True)
    try:
        rehearsal.until("the run to train", lambda: rehearsal.step_now() >= step, driver, patience)
        rehearsal.say(f"        SIGTERM to all of it at step {rehearsal.step_now()}")
        sent = time.time()
        os.killpg(driver.pid, signal.SIGTERM)
        try:
            driver.wait(patience)
        except subprocess.TimeoutExpired:
            raise InputOutputError(
                f"The run did not end within {patience:.0f} s of the signal; see results/{rehearsal.HIT}-driver.log."
            ) from None
        left = rehearsal.ended(rehearsal.events("exit"), study)
        saved = datetime.fromisoformat(left["time"]).timestamp()
        rehearsal.say(f"        saved {saved - sent:.1f} s after the signal, at step {left['step']}")
        rehearsal.say("3 of 3: the same command again ...")
        driver = rehearsal.driver(PROFILE, rehearsal.HIT, study, alone=True)
        if driver.wait():
            raise InputOutputError(f"The same command did not finish the run; see results/{rehearsal.HIT}-driver.log.")
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGTERM)
    back = rehearsal.events("resume")[0]
    return rehearsal.verdict(
        {
            "how": "none needed: the same command, typed again",
            "saved": saved - sent,
            "away": datetime.fromisoformat(back["time"]).timestamp() - saved,
            "lost": left["step"] - back["step"],
            "retries": 0,
        }
    )
