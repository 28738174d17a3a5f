"""The rehearsal on a machine that is faster than its signal; the rest of it is played on a real Slurm (tests/slurm)."""

from __future__ import annotations

import argparse
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


# A study's driver as the rehearsal sees it: state folder, events, heartbeats, SIGTERM, the marker at the end.
DRIVER = """
import json, pathlib, signal, sys, time
name = next(word[6:] for word in sys.argv if word.startswith("study="))
state, runs = pathlib.Path(f"results/{name}/state/0123"), pathlib.Path(f"results/{name}/runs/baseline/seed-42")
state.mkdir(parents=True, exist_ok=True); runs.mkdir(parents=True)
def event(kind, **facts):
    with open(state / "events.jsonl", "a") as file:
        file.write(json.dumps({"time": "2026-01-01T00:00:00+00:00", "event": kind, **facts}) + "\\n")
saved = state / "saved"
step = begun = int(saved.read_text()) if saved.exists() else 0
event("resume" if begun else "start", step=begun)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
while step < 20 or (name == "drill" and not begun):  # the run to be disturbed goes on until it is
    step += 1
    (state / "heartbeat.json").write_text(json.dumps({"step": step}))
    if asked:
        saved.write_text(str(step)); event("exit", code=75, step=step); runs.rmdir(); sys.exit(1)
    time.sleep(0.01)
event("exit", code=0, step=step)
weights = "other" if begun and pathlib.Path("faulty").exists() else "same"
(runs / "train.json").write_text(json.dumps({"result": {"weights_sha256": weights}}))
"""


@pytest.mark.parametrize("faulty", [False, True])
def test_preemption_is_rehearsed_without_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], faulty: bool
) -> None:
    """All of it gets SIGTERM, the same command goes on; other weights than the quiet run's are a failure."""
    (tmp_path / "snakemake.py").write_text(DRIVER)
    (tmp_path / "profiles/local").mkdir(parents=True)
    for file in ("profiles/local/config.yaml", "study.yaml", *(["faulty"] if faulty else [])):
        (tmp_path / file).write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = argparse.Namespace(
        local=True, profile="profiles/slurm", study=Path("study.yaml"), step=30, patience=1.0
    )
    assert drill.run(arguments) == int(faulty)
    said = capsys.readouterr().out
    assert ("final weights              DIFFERENT" in said) == faulty
    assert "steps lost                        0" in said and "the same command, typed again" in said
