"""The rehearsal on a machine that is faster than its signal; the rest of it is played on a real Slurm (tests/slurm)."""

from __future__ import annotations

import json
import subprocess
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
