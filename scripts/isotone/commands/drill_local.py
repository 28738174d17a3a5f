"""The rehearsal without Slurm: SIGTERM to all that runs, as where a machine is taken away, then the same command again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

from isotone.commands import drill
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
    drill.clean()
    drill.say("1 of 3: the quiet run, on this machine ...")
    began = time.monotonic()
    if drill.driver(PROFILE, drill.QUIET, study).wait():
        raise InputOutputError(f"The quiet run did not finish; see results/{drill.QUIET}-driver.log.")
    drill.say(f"        done in {time.monotonic() - began:.0f} s\n2 of 3: the same run, to be disturbed ...")
    skip = shutil.ignore_patterns("runs", "state", "logs")
    shutil.copytree(f"results/{drill.QUIET}", f"results/{drill.HIT}", ignore=skip)
    driver = drill.driver(PROFILE, drill.HIT, study, alone=True)
    try:
        drill.until("the run to train", lambda: drill.step_now() >= step, driver, patience)
        drill.say(f"        SIGTERM to all of it at step {drill.step_now()}")
        sent = time.time()
        os.killpg(driver.pid, signal.SIGTERM)
        try:
            driver.wait(patience)
        except subprocess.TimeoutExpired:
            raise InputOutputError(
                f"The run did not end within {patience:.0f} s of the signal; see results/{drill.HIT}-driver.log."
            ) from None
        left = drill.ended(drill.events("exit"), study)
        saved = datetime.fromisoformat(left["time"]).timestamp()
        drill.say(f"        saved {saved - sent:.1f} s after the signal, at step {left['step']}")
        drill.say("3 of 3: the same command again ...")
        driver = drill.driver(PROFILE, drill.HIT, study, alone=True)
        if driver.wait():
            raise InputOutputError(f"The same command did not finish the run; see results/{drill.HIT}-driver.log.")
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGTERM)
    back = drill.events("resume")[0]
    return drill.verdict(
        {
            "how": "none needed: the same command, typed again",
            "saved": saved - sent,
            "away": datetime.fromisoformat(back["time"]).timestamp() - saved,
            "lost": left["step"] - back["step"],
            "retries": 0,
        }
    )
