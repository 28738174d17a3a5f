"""What `python -m isotone status` and `checkpoints` say of a real run: while it trains, when it is done, when it failed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from isotone.records import file_digest

from tests.workflow.conftest import run

NAME = "mlp_both/seed-42"


@pytest.fixture
def checkout(copy_of_finished: Callable[[], Path]) -> Path:
    """A finished study that has lost one trained run."""
    folder = copy_of_finished()
    shutil.move(folder / "results/smoke/runs" / NAME, folder / "before")
    for kept in (folder / "results/smoke/state").glob("*/finished"):
        shutil.rmtree(kept)  # or the run would be put back
    return folder


def look(checkout: Path, *command: str) -> tuple[int, Any]:
    done = run(checkout, "-m", "isotone", *command, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def run_of(found: dict[str, Any]) -> dict[str, Any]:
    return next(entry for entry in found["runs"] if entry["name"] == NAME)


def state_of(checkout: Path) -> Path:
    for beat in (checkout / "results/smoke/state").glob("*/heartbeat.json"):
        if json.loads(beat.read_text())["name"] == NAME:
            return beat.parent
    raise FileNotFoundError("the run has not begun")


@contextmanager
def held_still(process: subprocess.Popen[str], checkout: Path, step: int) -> Iterator[None]:
    """Freeze a trainer once it has a checkpoint and has done so many steps."""
    deadline = time.monotonic() + 240
    while True:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        try:
            state = state_of(checkout)
            if json.loads((state / "heartbeat.json").read_text())["step"] >= step and list(
                state.glob("checkpoints.g*/step-*")
            ):
                break
        except (FileNotFoundError, ValueError):
            pass
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_run_is_seen_while_it_trains_and_its_checkpoints_are_whole(checkout: Path, tmp_path: Path) -> None:
    study = checkout / "results/smoke"
    job = json.loads((checkout / "before/train.json").read_text())["settings"]
    out = study / "runs" / NAME
    command = [
        sys.executable, "scripts/train.py", "--start", f"{study}/starts/mlp_both/model", "--teacher", f"{study}/base",
        "--train", f"{study}/data/train", "--validation", f"{study}/data/validation", "--study-folder", str(study),
        "--name", NAME, "--settings", json.dumps(job), "--operation", json.dumps({"save_every_steps": 2, "keep_state": True}),
        "--model", f"{out}/model", "--history", f"{out}/history.csv", "--certificate", f"{out}/certificate.json",
        "--marker", f"{out}/train.json",
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    with subprocess.Popen(
        command, cwd=checkout, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        with held_still(process, checkout, step=5):
            code, found = look(checkout, "status", "smoke")
            seen = run_of(found)
            assert code == 0 and seen["state"] == "running" and not found["failed"]
            assert 5 <= seen["step"] < seen["steps"] and 0 < seen["loss"] < 20 and seen["eta_seconds"] > 0
            assert seen["tokens_per_second"] > 0 and 0 < seen["epoch"] < 2 and len(seen["spark"]) >= 2
            train = next(stage for stage in found["stages"] if stage["stage"] == "train")
            assert train["running"] == 1 and train["done"] == train["total"] - 1 and found["state_bytes"] > 0

            text = run(checkout, "-m", "isotone", "status", "smoke", COLUMNS="120").stdout
            line = next(line for line in text.splitlines() if line.startswith(NAME + " "))
            assert "running" in line and f"{seen['step']}/{seen['steps']}" in line and len(line) <= 120

            code, kept = look(checkout, "checkpoints", "smoke", "--verify")
            assert code == 0 and kept and {entry["verdict"] for entry in kept} == {"whole"}
            assert {entry["run"] for entry in kept} == {NAME}
        assert process.wait() == 0, process.communicate()[0]

    done = run_of(look(checkout, "status", "smoke")[1])
    assert (done["state"], done["eta_seconds"]) == ("done", None) and done["step"] == done["steps"]
    newest = max(look(checkout, "checkpoints", "smoke")[1], key=lambda entry: entry["step"])
    assert newest["step"] == done["steps"]

    exported = run(checkout, "-m", "isotone", "checkpoints", "smoke", "--export", str(tmp_path / "exported"))
    assert exported.returncode == 0, exported.stderr
    weights = [path / "model.safetensors" for path in (tmp_path / "exported", out / "model", checkout / "before/model")]
    assert len({file_digest(path) for path in weights}) == 1
    again = run(checkout, "-m", "isotone", "checkpoints", "smoke", "--export", str(tmp_path / "exported"))
    assert again.returncode == 78 and "exists already" in again.stderr

    damaged = checkout / newest["folder"] / "weights.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    code, kept = look(checkout, "checkpoints", "smoke", "--verify")
    assert code == 1
    assert [entry["folder"] for entry in kept if entry["verdict"] != "whole"] == [newest["folder"]]
    exported = run(checkout, "-m", "isotone", "checkpoints", "smoke", "--export", str(tmp_path / "older"))
    assert exported.returncode == 0 and f"step {newest['step']}:" not in exported.stdout


def test_a_failed_run_is_seen_with_its_last_error_and_its_log(checkout: Path) -> None:
    weights = checkout / "results/smoke/starts/mlp_both/model/model.safetensors"
    with open(weights, "r+b") as file:
        file.truncate(1000)
    target = f"results/smoke/runs/{NAME}/train.json"
    options = ["--profile", "profiles/local", "--configfile", "config/smoke.yaml", "--rerun-triggers", "input"]
    assert run(checkout, "-m", "snakemake", *options, "--", target).returncode == 1
    code, found = look(checkout, "status", "smoke")
    assert code == 1 and run_of(found)["state"] == "failed"
    entry = next(entry for entry in found["failed"] if entry["what"] == f"train {NAME}")
    assert "model.safetensors is damaged" in entry["error"]
    assert entry["log"].startswith("results/smoke/state/")  # of this start alone
    for log in (entry["log"], "results/smoke/logs/train/mlp_both-seed-42.log"):
        assert entry["error"] in Path(checkout, log).read_text()
    text = " ".join(run(checkout, "-m", "isotone", "status", "smoke", COLUMNS="120").stdout.split())
    assert Path(entry["log"]).name in text and " ".join(entry["error"].split())[:60] in text
