"""`isotone monitor`, as its user runs it: with a driver's library that pretends there is a GPU, and without any."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = """
from types import SimpleNamespace
def nvmlInit(): pass
def nvmlDeviceGetCount(): return COUNT
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(used=3 << 30, total=80 << 30)
def nvmlDeviceGetUtilizationRates(handle): return SimpleNamespace(gpu=41)
def nvmlDeviceGetTemperature(handle, kind): return 55
def nvmlDeviceGetPowerUsage(handle): return 123_000
"""


def start(folder: Path, count: int, *words: str) -> subprocess.Popen[str]:
    (folder / "pynvml.py").write_text(LIBRARY.replace("COUNT", str(count)))
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "isotone", "monitor", *words],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_prints_and_writes_rows_until_ctrl_c(tmp_path: Path) -> None:
    running = start(tmp_path, 2, "--file", str(tmp_path / "gpu.jsonl"), "--every", "0.05")
    assert running.stdout is not None
    lines = [running.stdout.readline() for _ in range(4)]
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=20)
    assert running.returncode == 0 and "Traceback" not in said
    assert "GPU 1   41 %  3.0 of 80.0 GiB  55 C  123 W" in lines[1] and "GPU 0" in lines[2]
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert len(rows) >= 4 and [row["gpu"] for row in rows[:4]] == [0, 1, 0, 1]
    assert set(rows[0]) == {"time", "gpu", "utilisation", "memory", "total", "temperature", "power"}
    assert rows[2]["time"] > rows[0]["time"] + 0.04


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    running = start(tmp_path, 1, "--json", "--every", "0.01")
    assert running.stdout is not None and running.stderr is not None
    assert json.loads(running.stdout.readline())["utilisation"] == 41
    running.stdout.close()
    assert running.wait(timeout=20) == 0
    assert "Traceback" not in running.stderr.read()
    running.stderr.close()


@pytest.mark.parametrize(
    ("count", "words", "answer"),
    [
        (0, [], "No NVIDIA GPU can be read"),
        (1, ["--every", "0"], "--every is 0.0"),
        (1, ["--file", "/no/such/gpu.jsonl"], "cannot be written"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, count: int, words: list[str], answer: str) -> None:
    _, said = (running := start(tmp_path, count, *words)).communicate(timeout=20)
    assert running.returncode == 78 and answer in said and "Traceback" not in said
