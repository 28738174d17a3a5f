"""A checkout in which the smoke study has run, and a way to ask Snakemake what it would do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["Snakefile", "rules", "scripts", "config", "profiles", "envs", "report"]


def copy_checkout(root: Path, target: Path) -> Path:
    """The workflow's own files, as a fresh checkout would have them."""
    target.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        source = root / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif source.exists():
            shutil.copy2(source, target / part)
    return target


def run(folder: Path, *command: str, seconds: float = 900, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the checkout with this Python, and keep what it says."""
    # The checkout is a copy: its coverage would count for nothing and slow it down.
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("COV")}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=seconds,
        env=inherited | {"SLURM_CONF": "/dev/null"} | environment,
    )


def planned(folder: Path, *options: str, configfile: str = "config/smoke.yaml", **environment: str) -> dict[str, int]:
    """How many jobs of each rule `snakemake -n` would run."""
    done = run(folder, "-m", "snakemake", "-n", "--configfile", configfile, *options, **environment)
    assert done.returncode == 0, done.stderr + done.stdout
    text = done.stdout + done.stderr
    if "Nothing to be done" in text:
        return {}
    table = text[text.index("Job stats:") :].split("\n\n")[0]
    counts = {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", table, re.M)}
    counts.pop("total")
    return counts


@pytest.fixture(scope="session")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the smoke study is complete."""
    folder = copy_checkout(root, tmp_path_factory.mktemp("finished") / "checkout")
    done = run(folder, "scripts/run_study.py", "config/smoke.yaml")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture
def copy_of_finished(finished: Path, tmp_path: Path) -> Callable[[], Path]:
    """A complete study that a test may damage: same times, another path."""

    def copy() -> Path:
        target = tmp_path / "moved" / "elsewhere"
        subprocess.run(
            ["cp", "-a", f"{finished}/.", str(target)] if target.mkdir(parents=True) is None else [], check=True
        )
        return target

    return copy
