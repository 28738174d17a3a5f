"""What the doctor says of the hub, of busy GPUs, of main memory and cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from isotone.config.data import Model
from isotone.environment import available_memory, total_memory
from isotone.errors import ConfigurationError
from isotone.models.origins.hub import fetch_model
from isotone.planning.checks import busy
from isotone.planning.checks import machine as checks
from isotone.studies.reading import read_study

from tests.unit.fake_hub import COMMIT, Hub, hub
from tests.unit.test_training_gpu import library

MODEL = {"source": "hub", "name": "tiny/model", "revision": "v1"}
TEXT = {"source": "hub", "name": "tiny/text", "revision": "v1"}
CODE = """
import json, sys
from isotone.planning.checks.downloads import downloads
from isotone.studies.reading import read_study
print(json.dumps([downloads(read_study({"study": "s", **raw}, "s")) for raw in json.load(sys.stdin)]))
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served/config.json").write_text("{}")
    with hub(tmp_path / "served") as running:
        yield running


def ask(home: Path, url: str, *studies: dict[str, Any], offline: str = "0") -> list[list[str]]:
    """The check's verdicts on some studies, with huggingface_hub's real client."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": offline, "NO_PROXY": "127.0.0.1"}
    words = json.dumps([{"arms": {"baseline": {}}, **study} for study in studies])
    done = subprocess.run(
        [sys.executable, "-c", CODE], input=words, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def put_in_cache(home: Path) -> None:
    folder = home / "hub/models--tiny--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/v1").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "config.json").write_text("{}")


def test_revision_and_data_set_are_asked_for(server: Hub, tmp_path: Path) -> None:
    good, revision, name, text = ask(
        tmp_path,
        server.url,
        {"model": MODEL, "data": TEXT},
        {"model": MODEL | {"revision": "v9"}},
        {"model": MODEL | {"name": "tiny/absent"}},
        {"model": MODEL, "data": TEXT | {"name": "tiny/absent"}},
    )
    assert good[0] == "green" and good[1].count(f"commit {COMMIT[:12]}; to be fetched") == 2
    assert revision[0] == "red" and "no such revision" in revision[1]
    assert name[0] == "red" and "nothing of that name" in name[1]
    assert text[0] == "red" and "data.name is 'tiny/absent'" in text[1]
    assert server.served == []  # nothing was downloaded


def test_a_gated_one_is_green_only_with_access(server: Hub, tmp_path: Path) -> None:
    server.gated = "manual"
    assert ask(tmp_path, server.url, {"model": MODEL})[0] == [
        "green",
        f"tiny/model (v1) is there, commit {COMMIT[:12]}; it is gated, and you have access; to be fetched",
    ]
    server.admitted = False
    model, text = ask(tmp_path, server.url, {"model": MODEL}, {"data": TEXT})
    for colour, words in (model, text):
        assert colour == "red" and "accept its terms" in words and "HF_TOKEN" in words


def test_a_data_set_that_cannot_be_had_is_replaced_and_said(server: Hub, tmp_path: Path) -> None:
    absent = TEXT | {"name": "tiny/absent"}
    second, none = ask(
        tmp_path,
        server.url,
        {"data": absent | {"alternatives": [TEXT]}},
        {"data": absent | {"alternatives": [{"source": "local", "path": "/no/such"}]}},
    )
    assert second[0] == "yellow" and "tiny/absent" in second[1] and "is taken: tiny/text (v1) is there" in second[1]
    assert none[0] == "red" and "/no/such does not exist" in none[1]


def test_trouble_of_the_hub_is_told_from_a_wrong_name(server: Hub, tmp_path: Path) -> None:
    server.trouble = [(503, "")] * 9
    busy_hub = ask(tmp_path, server.url, {"model": MODEL})[0]
    server.trouble = [(401, "RepoNotFound")] * 9
    stranger = ask(tmp_path, server.url, {"model": MODEL})[0]
    assert busy_hub[0] == "yellow" and "tries again" in busy_hub[1]
    assert stranger[0] == "red" and "Check the spelling" in stranger[1]


def test_offline_nobody_is_asked(server: Hub, tmp_path: Path) -> None:
    server.trouble = [(500, "")]
    assert ask(tmp_path, server.url, {"model": MODEL}, offline="1")[0][0] == "red"
    put_in_cache(tmp_path)
    there = ask(tmp_path, server.url, {"model": MODEL}, offline="1")[0]
    assert there[0] == "green" and "HF_HUB_OFFLINE is set" in there[1]
    assert server.trouble  # not a single request
    absent = ask(tmp_path, "http://127.0.0.1:9", {"model": MODEL}, {"model": MODEL | {"name": "tiny/other"}})
    assert absent[0][0] == "yellow" and "export HF_HUB_OFFLINE=1" in absent[0][1]
    assert absent[1][0] == "red" and "cannot be reached" in absent[1][1]


def test_fetching_without_a_connection_ends_in_a_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isotone.hub.retries.TRIES", 1)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # whatever a test before this one has prepared
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ConfigurationError, match="cannot be reached"):
        fetch_model(Model(source="hub", name="tiny/model", revision="v1"))


def gpus_with(used: dict[int, int], memory: dict[int, int], pids: tuple[int, ...] = (), **changes: Any) -> object:
    """Two GPUs of 80 GiB; utilisation in percent and memory in GiB of each."""
    return library(
        0,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=used[handle]),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=memory[handle] << 30, total=80 << 30),
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [SimpleNamespace(pid=pid) for pid in pids],
        **changes,
    )


def test_busy_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "PAUSE", 0.0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert busy.gpus(gpus_with({0: 0, 1: 3}, {0: 1, 1: 0})) == ("green", "none of 2 in use")
    colour, words = busy.gpus(gpus_with({0: 0, 1: 0}, {0: 0, 1: 40}, (4711,)))
    assert colour == "yellow" and "GPU 1: 40.0 of 80.0 GiB held, 0 % busy (processes 4711)" in words
    assert "GPU 0" not in words and "CUDA_VISIBLE_DEVICES" in words
    colour, words = busy.gpus(gpus_with({0: 97, 1: 0}, {0: 0, 1: 0}))
    assert colour == "yellow" and "GPU 0: 0.0 of 80.0 GiB held, 97 % busy" in words and "processes" not in words


def test_one_busy_moment_is_no_use_and_a_gpu_that_cannot_be_read_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "PAUSE", 0.0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    moments = iter([0, 0, 90, 0, 0, 0])
    brief = library(0, nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=next(moments)))
    brief.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(used=1, total=80 << 30)
    assert busy.gpus(brief)[0] == "green"

    def lost(handle: int) -> SimpleNamespace:
        raise RuntimeError("GPU is lost")

    colour, words = busy.gpus(library(0, nvmlDeviceGetUtilizationRates=lost))
    assert colour == "yellow" and "GPU is lost" in words


def test_only_chosen_gpus_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "PAUSE", 0.0)
    nvml = gpus_with({0: 97, 1: 0}, {0: 70, 1: 0}, nvmlDeviceGetHandleByUUID=lambda name: int(name[-1]))
    for chosen, colour in {"1": "green", "0,1": "yellow", "GPU-1": "green", "GPU-0": "yellow", "": "yellow"}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert busy.gpus(nvml)[0] == colour, chosen
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert busy.gpus(nvml) == ("green", "no NVIDIA GPU that could be asked (CUDA_VISIBLE_DEVICES=5 names none of them)")
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    assert busy.gpus(nvml)[0] == "yellow"


def test_main_memory_against_what_others_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < available_memory() <= total_memory()
    large = read_study(
        {"study": "s", "model": MODEL | {"name": "meta-llama/Llama-3.2-1B"}, "arms": {"baseline": {}}}, "s"
    )  # 1.24 billion parameters: 4.6 GiB in fp32
    monkeypatch.setattr(checks, "total_memory", lambda: 64 << 30)
    for gpu, free, colour in ((True, 12, "green"), (True, 11, "yellow"), (False, 30, "yellow"), (False, 64, "green")):
        monkeypatch.setattr(checks, "gpus", lambda gpu=gpu: [{"name": "H100"}] if gpu else [])
        monkeypatch.setattr(checks, "available_memory", lambda free=free: free << 30)
        assert checks.main_memory(large, tmp_path)[0] == colour, (gpu, free, checks.main_memory(large, tmp_path))
    monkeypatch.setattr(checks, "gpus", lambda: [{"name": "H100"}])
    monkeypatch.setattr(checks, "total_memory", lambda: 8 << 30)
    assert checks.main_memory(large, tmp_path)[0] == "red"
    monkeypatch.setattr(checks, "gpus", lambda: [])
    colour, words = checks.main_memory(large, tmp_path)
    assert colour == "yellow" and "Ask for more memory" in words


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_study(
        {"study": "s", "arms": {"baseline": {}, "wide": {"training": {"threads": 8}}}, "training": {"threads": 2}}, "s"
    )
    monkeypatch.setattr(checks, "available_cpus", lambda: 8)
    assert checks.cores(study)[0] == "green"
    monkeypatch.setattr(checks, "available_cpus", lambda: 7)
    colour, words = checks.cores(study)
    assert colour == "yellow" and "asks for 8 threads (arms.wide)" in words
