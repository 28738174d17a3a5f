"""The GPU monitor, with a library that pretends there are two."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

from isotone.training.telemetry.gpu import Monitor


def library(utilisation: int) -> SimpleNamespace:
    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=10 + handle, total=100),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=utilisation),
        nvmlDeviceGetTemperature=lambda handle, kind: 55,
        nvmlDeviceGetPowerUsage=lambda handle: 123_000,
    )


def watch(folder: Path, utilisation: int) -> list[tuple]:
    told: list[tuple] = []
    monitor = Monitor(
        folder / "gpu.jsonl", lambda kind, **facts: told.append((kind, facts)), library(utilisation), period=0.001
    )
    end = time.monotonic() + 20
    while (
        not (folder / "gpu.jsonl").exists() or len((folder / "gpu.jsonl").read_text().splitlines()) < 140
    ) and time.monotonic() < end:
        time.sleep(0.01)
    monitor.close()
    return told


def test_it_writes_a_line_per_gpu_and_advises_when_they_idle(tmp_path: Path) -> None:
    told = watch(tmp_path, 5)
    row = json.loads((tmp_path / "gpu.jsonl").read_text().splitlines()[1])
    assert {key: row[key] for key in ("gpu", "memory", "total", "temperature", "power", "utilisation")} == {
        "gpu": 1,
        "memory": 11,
        "total": 100,
        "temperature": 55,
        "power": 123.0,
        "utilisation": 5,
    }
    assert told[0][0] == "advice"


def test_busy_gpus_need_no_advice(tmp_path: Path) -> None:
    assert not watch(tmp_path, 95)


def test_without_a_gpu_it_does_nothing(tmp_path: Path) -> None:
    Monitor(tmp_path / "gpu.jsonl", lambda *_: None).close()
    assert not (tmp_path / "gpu.jsonl").exists()
