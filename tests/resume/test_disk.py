"""A full disk costs checkpoints, never the run, and never the last valid checkpoint."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.resume.forks import Fault
from tests.resume.runs import Case, weights
from tests.resume.tiny import Study

OPERATION = {"save_every_steps": 2, "keep": 3, "background_save": False, "keep_state": True}
SHORT = {"training": {"epochs": 1}}  # four steps, three saves


@pytest.mark.parametrize("kind", ["full_once", "full"])
def test_training_goes_on_when_the_disk_is_full_at_any_write(study: Study, tmp_path: Path, kind: str) -> None:
    counted = Case(study, tmp_path / "count", SHORT, OPERATION)
    assert counted.start(fault=Fault("full_count")).wait() == 0, counted.text()
    total, wanted = len((counted.place / "log.operations").read_text().splitlines()), weights(counted.place)
    assert total >= 18  # of each save: a folder, five files
    for first in range(2, total + 1, 4):  # the first is the folder of checkpoints itself
        numbers = range(first, min(first + 4, total + 1))
        cases = {number: Case(study, tmp_path / f"{number}", SHORT, OPERATION) for number in numbers}
        starts = {number: case.start(fault=Fault(kind, number)) for number, case in cases.items()}
        for number, case in cases.items():
            assert starts[number].wait() == 0, (number, starts[number].text())
            assert weights(case.place) == wanted
            alarms = [event["what"] for event in case.events("alarm")]
            assert alarms  # the fault really happened
            if kind == "full":
                assert "checkpoint not saved" in alarms
                assert case.steps() or number <= 7  # a save that was complete before stays
            else:
                assert case.steps()[-1] == 4  # tried again, with success
                assert "checkpoint not saved" not in alarms
            shutil.rmtree(case.place)


SCRIPT = """
set -e
mount -t tmpfs -o size=900k tmpfs "$1"
shift
exec "$@"
"""


def test_a_disk_that_is_really_full(case: Case, undisturbed: str) -> None:
    state = case.place / "small"
    state.mkdir(parents=True)
    words = case.study.arguments(case.place, case.settings, OPERATION | {"keep": 8})
    program = [sys.executable, str(Path(__file__).resolve().parents[2] / "scripts/train.py"), *words]
    command = ["unshare", "-rm", "bash", "-c", SCRIPT, "small-disk", str(state), *program]
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs user namespaces; the test above injects the same error at every write")
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(state))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "disk full" in done.stderr or "not saved" in done.stderr
    assert weights(case.place) == undisturbed


def _environment(state: Path) -> dict[str, str]:
    import os

    return os.environ | {"ISOTONE_STATE": str(state), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("where", ["finished/.certificate", "case/.model"])
def test_results_that_cannot_be_written_keep_the_training(
    study: Study, tmp_path: Path, undisturbed: str, where: str
) -> None:
    case = Case(study, tmp_path / "case")
    first = case.start(fault=Fault("full", 1, where=(where,)))
    assert first.wait() == 74
    assert ("is done and kept" if where.startswith("case") else "make room") in first.text()
    assert not (case.place / "train.json").exists()
    assert case.start().wait() == 0
    assert len(case.events("start")) == 1
    assert weights(case.place) == undisturbed
