from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest
from isotone import environment
from isotone.progress import Progress, duration, quantity

LIGHT = ["isotone", "isotone.environment", "isotone.studies.study", "isotone.commands.status", "isotone.commands.doctor",
         "isotone.commands.estimate", "isotone.commands.checkpoints", "isotone.commands.resume", "isotone.planning.capacity"]  # fmt: skip


def test_caches_go_to_scratch_else_to_project_else_it_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HOME", raising=False)
    (tmp_path / "project").mkdir()
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setenv("PROJECT", str(tmp_path / "project"))
    assert environment.variables()["HF_HOME"] == str(tmp_path / "huggingface")
    monkeypatch.setenv("SCRATCH", str(tmp_path / "absent"))
    assert environment.variables()["HF_HOME"] == str(tmp_path / "project/huggingface")
    assert environment.cache_sentence() == f"Downloads are kept in {tmp_path / 'project/huggingface'}."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROJECT", "project")  # a name, such as a cloud's, and no path
    assert "HF_HOME" not in environment.variables()
    assert "export HF_HOME=" in environment.cache_sentence()
    monkeypatch.setenv("HF_HOME", "/chosen")
    assert environment.cache_sentence() == "Downloads are kept in /chosen."


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    environment.prepare()
    import os

    assert os.environ["PYTHONHASHSEED"] == "7" and os.environ["HF_HUB_OFFLINE"] == "0"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "HF_HUB_OFFLINE" not in environment.variables(offline=False)


def faults_of_tiles(*, prepared: bool) -> int:
    """Page faults of a program that takes and frees 4 MiB a hundred times, as scoring does."""
    code = f"""
import resource
from isotone import environment
if {prepared}:
    environment.prepare()
import numpy as np
def round(): a, b = np.ones(1 << 18), np.ones(1 << 18)
for _ in range(3): round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100): round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept():
    assert faults_of_tiles(prepared=True) < 100 < 10_000 < faults_of_tiles(prepared=False)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_neither_torch_nor_transformers(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'datasets', 'scipy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_seeds_make_draws_repeat():
    import random

    import numpy as np
    import torch

    draws = []
    for seed in (3, 3, 4):
        environment.deterministic(seed)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(1))))
    assert draws[0] == draws[1] != draws[2]
    assert torch.are_deterministic_algorithms_enabled()


def test_the_record_names_versions_and_devices():
    assert {"python", "torch", "transformers"} <= set(environment.versions())
    record = environment.devices()
    assert record["cpus"] >= 1 and json.dumps(record)
    assert environment.total_memory() > 2**28


def test_times_and_counts_as_people_say_them():
    assert [duration(s) for s in (5, 190, 7500, 273_600)] == ["5s", "3m10s", "2h05m", "3d04h"]
    assert [quantity(n) for n in (950, 12_340, 4.5e6, 2e9)] == ["950", "12.3k", "4.5M", "2.0G"]


def test_progress_speaks_every_few_seconds_and_not_at_all_about_short_work(capsys):
    with Progress("quick", 10) as progress:
        progress.add(10)
    assert capsys.readouterr().err == ""
    with Progress("slow", 10, "steps", every=0.0) as progress:
        progress.add(4, "a note")
    text = capsys.readouterr().err
    assert "slow: 4 of 10 steps (40 %)" in text and "left" in text and "a note" in text
