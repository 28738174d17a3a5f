"""A study that is killed and trained one epoch at a time ends in the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.workflow.conftest import copy_checkout, run


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the driver and all its jobs, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(path: Path, seconds: float = 500) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def test_kill_9_twice_and_one_epoch_per_run_change_nothing(root: Path, finished: Path, tmp_path: Path) -> None:
    folder = copy_checkout(root, tmp_path / "checkout")
    epochs = [f"{rule}:max_epochs_per_run=1" for rule in ("train_baseline", "train_monotonic", "pretrain")]
    command = [sys.executable, "scripts/run_study.py", "config/smoke.yaml", "--set-resources", *epochs]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")} | {
        "SLURM_CONF": "/dev/null"
    }
    study = folder / "results/smoke"
    for reached in (study / "setup.json", study / "runs/baseline/seed-42/perplexity.json"):
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(reached)
        kill_tree(process)
    kept = (study / "runs/baseline/seed-42/train.json").stat().st_mtime_ns
    done = run(folder, *command[1:])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "An earlier run was cut off" in done.stdout
    assert (study / "runs/baseline/seed-42/train.json").stat().st_mtime_ns == kept, "finished work was done again"

    undisturbed = json.loads((finished / "results/smoke/final_results.json").read_text())
    disturbed = json.loads((study / "final_results.json").read_text())
    assert disturbed["digest"] == undisturbed["digest"]
    assert disturbed["results"] == undisturbed["results"]


def test_a_second_driver_in_the_same_folder_is_refused(finished: Path) -> None:
    from filelock import FileLock

    with FileLock(finished / ".snakemake/isotone-driver.lock"):
        done = run(finished, "scripts/run_study.py", "config/smoke.yaml")
    assert done.returncode == 78 and "Another run works in this folder" in done.stderr


def test_epochs_per_run_by_hand_end_with_75_and_say_how_to_go_on(finished: Path, tmp_path: Path) -> None:
    study = finished / "results/smoke"
    job = json.loads((study / "runs/mlp_both/seed-42/train.json").read_text())["settings"]
    out = tmp_path / "out"
    command = [
        "scripts/train.py", "--start", f"{study}/starts/mlp_both/model", "--teacher", f"{study}/base",
        "--train", f"{study}/data/train", "--validation", f"{study}/data/validation",
        "--study-folder", str(tmp_path / "study"), "--name", "by-hand", "--settings", json.dumps(job), "--operation", "{}",
        "--model", f"{out}/model", "--history", f"{out}/history.csv", "--certificate", f"{out}/certificate.json",
        "--marker", f"{out}/train.json", "--max-epochs-per-run", "1",
    ]  # fmt: skip
    codes = []
    for _ in range(10):
        done = run(finished, *command)
        codes.append(done.returncode)
        if done.returncode != 75:
            break
        assert "run again to continue" in done.stdout + done.stderr
        assert not (out / "train.json").exists()
    assert codes[-1] == 0 and len(codes) > 1, (codes, done.stderr)
    by_hand = json.loads((out / "train.json").read_text())["result"]["weights_sha256"]
    assert by_hand == json.loads((study / "runs/mlp_both/seed-42/train.json").read_text())["result"]["weights_sha256"]
