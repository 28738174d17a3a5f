"""The GPU monitor, with a library that pretends there are two."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from isotone.training.telemetry.gpu import Monitor, recent_use
from isotone.training.telemetry.rotation import read_lines


def library(utilisation: int, **changes: Any) -> SimpleNamespace:
    made = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=10 + handle, total=100),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=utilisation),
        nvmlDeviceGetTemperature=lambda handle, kind: 55,
        nvmlDeviceGetPowerUsage=lambda handle: 123_000,
    )
    vars(made).update(changes)
    return made


def watch(
    folder: Path, nvml: SimpleNamespace, until: Callable[[list[tuple]], bool] | None = None, **options: Any
) -> list[tuple]:
    """What a monitor told until enough was read."""
    told: list[tuple] = []
    path = folder / "gpu.jsonl"
    enough = until or (lambda _: path.exists() and len(path.read_text().splitlines()) >= 140)
    tell = lambda kind, **facts: told.append((kind, facts))  # noqa: E731
    monitor = Monitor(path, tell, library=nvml, period=0.001, **options)
    end = time.monotonic() + 20
    while not enough(told) and time.monotonic() < end:
        time.sleep(0.01)
    monitor.close()
    assert enough(told)
    return told


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_lines(folder / "gpu.jsonl")]


def test_it_writes_a_line_per_gpu_and_advises_when_they_idle(tmp_path: Path) -> None:
    told = watch(tmp_path, library(5))
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
    assert not watch(tmp_path, library(95))


def test_without_a_gpu_it_does_nothing(tmp_path: Path) -> None:
    Monitor(tmp_path / "gpu.jsonl", lambda *_: None).close()
    assert not (tmp_path / "gpu.jsonl").exists()


def test_a_reading_that_fails_is_a_gap(tmp_path: Path) -> None:
    """Every third reading of one GPU fails: the other goes on, and so does the monitor."""
    count = itertools.count()

    def use(handle: int) -> SimpleNamespace:
        if handle == 1 and next(count) % 3 == 0:
            raise RuntimeError("Unknown Error")
        return SimpleNamespace(gpu=95)

    assert not watch(tmp_path, library(0, nvmlDeviceGetUtilizationRates=use))
    gpus = [row["gpu"] for row in lines(tmp_path)]
    assert 0.5 < gpus.count(1) / gpus.count(0) < 0.8


def test_readings_that_fail_for_long_are_said_once_and_may_come_back(tmp_path: Path) -> None:
    broken = [True]

    def use(handle: int) -> SimpleNamespace:
        if broken[0]:
            raise RuntimeError("GPU is lost")
        return SimpleNamespace(gpu=95)

    def until(told: list[tuple]) -> bool:
        if told:
            broken[0] = False
        return (tmp_path / "gpu.jsonl").exists() and bool(lines(tmp_path))

    told = watch(tmp_path, library(0, nvmlDeviceGetUtilizationRates=use), until)
    assert [kind for kind, _ in told] == ["alarm"]
    assert "GPU is lost" in told[0][1]["error"]


def test_only_the_gpus_of_this_job_are_read(tmp_path: Path) -> None:
    """Another job keeps the first GPU of the node busy; this one has the second."""
    busy = {"GPU-theirs": 100, "GPU-ours": 10}
    nvml = library(
        0,
        nvmlDeviceGetHandleByIndex=lambda index: list(busy)[index],
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=1, total=100),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=busy[handle]),
    )
    told = watch(tmp_path, nvml, devices=["GPU-ours"])
    assert {row["gpu"] for row in lines(tmp_path)} == {0}
    assert recent_use(tmp_path / "gpu.jsonl") == 10
    assert told[0][0] == "advice"


def test_use_is_that_of_fresh_rows(tmp_path: Path) -> None:
    path = tmp_path / "gpu.jsonl"
    assert recent_use(path) is None
    path.write_text("".join(json.dumps({"time": when, "utilisation": when}) + "\n" for when in range(100)) + "{cut")
    assert recent_use(path, rows=10) == 94.5
    assert recent_use(path, since=98) == 98.5
    assert recent_use(path, since=100) is None


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isotone.training.telemetry.gpu.LIMIT", 4000)
    rows = itertools.count()
    nvml = library(0, nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=90 + 0 * next(rows)))
    watch(tmp_path, nvml, lambda _: next(rows) > 400)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 9000
    assert recent_use(tmp_path / "gpu.jsonl", rows=20) == 90
