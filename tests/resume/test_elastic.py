"""The number of processes is a resource: the same order, and with `exact` the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.resume.elastic import free_port, run_together, start_together
from tests.resume.forks import wait_for
from tests.resume.runs import Case, weights
from tests.resume.tiny import ROOT


@pytest.mark.parametrize("size", [2, 4])
def test_exact_reduction_gives_the_same_bits(case: Case, undisturbed: str, size: int) -> None:
    assert run_together(case, size) == [0] * size, case.text()
    assert weights(case.place) == undisturbed


def test_processes_may_change_from_start_to_start(case: Case, undisturbed: str) -> None:
    case.operation = {"save_every_steps": 1}
    case.settings["training"] = {"epochs": 3}
    for size in (1, 2, 4):
        codes = run_together(case, size, max_epochs_per_run=1)
        assert codes == [75 if size < 4 else 0] * size, case.text()
    assert weights(case.place) == undisturbed
    assert [event["processes"] for event in [*case.events("start"), *case.events("resume")]] == [1, 2, 4]


def test_processes_whose_clocks_differ_save_together(case: Case, undisturbed: str) -> None:
    """A save by time is due in one process steps before it is in the other."""
    settings = ({"save_every_minutes": 1e-6}, {"save_every_minutes": 60.0})
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    starts = [
        case.start(variables=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, operation=operation)
        for rank, operation in enumerate(settings)
    ]
    assert [start.wait() for start in starts] == [0, 0], case.text()
    assert weights(case.place) == undisturbed


def test_what_all_processes_refuse_is_refused_once(case: Case) -> None:
    """Two processes and one GPU, which is not even there where torch has no CUDA; torchrun makes 1 of their 78."""
    start = case.start(processes=2, until_done=True, variables={"CUDA_VISIBLE_DEVICES": "0"})
    assert start.wait() == 78, start.text()
    assert "job holds" in start.text()
    assert start.text().splitlines()[-1] == "isotone: refused (78)"


def test_fast_reduction_agrees_to_a_millionth(study: object, tmp_path: Path) -> None:
    losses = {}
    for size, more in ((1, {}), (2, {}), (3, {}), (2, {"compression": "bf16"})):
        case = Case(study, tmp_path / f"{size}{len(more)}", {"training": {"reduction": "fast", **more}})  # type: ignore[arg-type]
        assert run_together(case, size) == [0] * size, case.text()
        losses[size, len(more)] = case.history()["loss"].dropna().to_numpy()
    for key in ((2, 0), (3, 0)):
        assert abs(losses[key] - losses[1, 0]).max() < 1e-6 * losses[1, 0].max()
    rounded = abs(losses[2, 1] - losses[1, 0]).max()
    assert 0 < rounded < 1e-2  # bf16 is rounder, and it is really used


def test_a_signal_to_one_process_stops_all(case: Case, undisturbed: str) -> None:
    starts = start_together(case, 2, operation={"save_every_steps": 2})
    wait_for(
        lambda: (
            ((case.place / "state").exists() and list((case.place / "state").glob("*/heartbeat-1.json")))
            or case.steps()
        )
    )
    starts[1].signal(signal.SIGTERM)
    codes = {start.wait() for start in starts}
    assert codes in ({75}, {0})
    assert case.start().wait() == 0
    assert weights(case.place) == undisturbed


def test_nobody_ends_before_the_first_has_left_word(case: Case) -> None:
    """torchrun and srun kill all as soon as one ends."""
    first, second = start_together(case, 2, max_epochs_per_run=1, limits={"slow_fsync": 300})
    assert second.wait() == 75
    assert case.outcome()["code"] == 75
    assert not (case.state / "lock").exists()
    assert first.wait() == 75


def test_three_processes_cannot_be_exact_and_nothing_is_refused_for_good(case: Case) -> None:
    starts = start_together(case, 3)
    codes = [start.wait() for start in starts]
    assert codes == [78] * 3
    assert "power of two" in case.text()
    assert not (case.state / "refused.json").exists()
    assert case.start().wait() == 0


def test_torchrun_loses_the_exit_code_and_the_program_finds_it_again(case: Case, undisturbed: str) -> None:
    words = case.study.arguments(case.place, case.settings, max_epochs_per_run=1, processes=2)
    command = [sys.executable, str(ROOT / "scripts/train.py"), *words]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 75, first.stderr[-3000:]
    done = subprocess.run([*command, "--until-done"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert weights(case.place) == undisturbed
    assert json.loads((case.place / "train.json").read_text())["cost"]["processes"] == 2
