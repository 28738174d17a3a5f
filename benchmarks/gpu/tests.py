"""The tests marked gpu."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.record import Plan, Record

ROOT = Path(__file__).resolve().parents[2]


def run(record: Record, plan: Plan) -> None:
    """Through pytest, as `make test` would; on the CPU they are collected and skipped."""
    import pytest  # noqa: F401 - missing: this section is not run

    if not (ROOT / "tests/gpu").is_dir():
        record.row("tests marked gpu", "there are none yet")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider", "-rs"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = found.stdout.strip().splitlines() or found.stderr.strip().splitlines() or ["no output"]
    record.row("tests marked gpu", lines[-1], "pass", found.returncode == 0 if plan.device == "cuda" else None)
    if found.returncode:
        for line in lines[-40:]:
            record.note(line)
