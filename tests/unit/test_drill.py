"""The rehearsal on a machine that is faster than its signal; the rest of it is played on a real Slurm (tests/slurm)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from isotone.commands import drill
from isotone.errors import InputOutputError


def test_a_run_that_is_done_before_the_signal_ends_the_rehearsal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for it to come back would take the whole patience, an hour."""
    for name in ("squeue", "scancel"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("ISOTONE_STATE", raising=False)
    monkeypatch.chdir(tmp_path)
    state = tmp_path / "results/drill/state/0123"
    state.mkdir(parents=True)
    (state / "heartbeat.json").write_text(json.dumps({"step": 509}))
    (state / "events.jsonl").write_text(
        json.dumps({"time": "2026-01-01T00:00:00+00:00", "event": "exit", "code": 0, "step": 509}) + "\n"
    )
    with subprocess.Popen(["sleep", "60"]) as driver:
        try:
            with pytest.raises(InputOutputError, match=r"done before the signal reached it.*--step 1"):
                drill._disturb(driver, step=60, patience=5)
        finally:
            driver.kill()


@pytest.mark.slow
def test_preemption_is_rehearsed_without_slurm(tmp_path: Path) -> None:
    """The real command on a smaller study: all of it gets SIGTERM, the same command ends it in the same weights."""
    root = Path(__file__).resolve().parents[2]
    for part in ("Snakefile", "rules", "scripts", "config", "envs", "report", "profiles", "requirements.lock"):
        (tmp_path / part).symlink_to(root / part)
    text = (root / "profiles/slurm/drill.yaml").read_text().replace("epochs: 4", "epochs: 1")
    (tmp_path / "study.yaml").write_text(text)
    environment = {name: value for name, value in os.environ.items() if name != "ISOTONE_STATE"}
    environment |= {"PYTHONPATH": str(root / "scripts")}
    command = [sys.executable, "-m", "isotone", "drill", "--local", "--study", "study.yaml", "--step", "5"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "final weights              equal" in done.stdout and re.search(r"steps lost +0\n", done.stdout)
    events = next((tmp_path / "results/drill/state").glob("*/events.jsonl")).read_text()
    assert '"SIGTERM"' in events and events.count('"resume"') == 1
