"""The results of a finished run survive whoever removes them, and whenever the program dies."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.resume.forks import Fault, remove_outputs
from tests.resume.runs import STEPS, Case, weights
from tests.resume.tiny import Study

PLACES = ("/finished", "/done.json", "/model", "/.model", "/history.csv", "/certificate.json", "/train.json")


@pytest.fixture(scope="module")
def nearly_done(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which the last epoch is missing."""
    case = Case(study, tmp_path_factory.mktemp("nearly"))
    for _ in range(2):
        assert case.start(max_epochs_per_run=1).wait() == 75, case.text()
    return case.place


@pytest.mark.parametrize("kind", ["remove", "kill"])
def test_outputs_that_vanish_or_a_program_that_dies_at_every_file_operation_of_the_end(
    nearly_done: Path, study: Study, undisturbed: str, tmp_path: Path, kind: str
) -> None:
    """No marker speaks of a model that is not there, and no step is trained twice."""
    shutil.copytree(nearly_done, tmp_path / "count")
    counted = Case(study, tmp_path / "count")
    assert counted.start(fault=Fault("count", where=PLACES)).wait() == 0, counted.text()
    total = len((counted.place / "log.operations").read_text().splitlines())
    assert total > 20  # four files are made, sealed and put into place
    for first in range(1, total + 1, 4):
        cases = {}
        for number in range(first, min(first + 4, total + 1)):
            shutil.copytree(nearly_done, tmp_path / str(number))
            cases[number] = Case(study, tmp_path / str(number))
        starts = {number: case.start(fault=Fault(kind, number, where=PLACES)) for number, case in cases.items()}
        finished = {}
        for number, case in cases.items():
            code = starts[number].wait()
            assert code in ({0, 74} if kind == "remove" else {-signal.SIGKILL}), (number, case.text())
            if code == 0 and number < total:  # the last operation is the marker's, behind the last look
                assert weights(case.place) == undisturbed, number
            finished[number] = (case.state / "done.json").exists()
            remove_outputs(case.place)
        again = {number: case.start() for number, case in cases.items()}
        for number, case in cases.items():
            assert again[number].wait() == 0, (number, case.text())
            assert weights(case.place) == undisturbed, number
            assert len(case.history()) == STEPS + 1
            assert bool(case.events("done_before")) == finished[number], number
            assert not case.steps()  # what the first left behind is cleaned by the second
            shutil.rmtree(case.place)


def test_removed_outputs_of_a_finished_run_are_put_back(case: Case, undisturbed: str) -> None:
    """They are newer than all inputs, or Snakemake would ask for them again and again."""
    assert case.start().wait() == 0
    marker = case.result()
    model = case.place / "model" / "model.safetensors"
    assert os.path.samefile(model, case.state / "finished/model/model.safetensors")  # costs no room
    remove_outputs(case.place)
    for path in case.study.start.iterdir():
        os.utime(path)
    newest = max(path.stat().st_mtime_ns for path in case.study.start.iterdir())
    assert case.start().wait() == 0, case.text()
    assert len(case.events("start")) == 1 and case.events("done_before")
    assert weights(case.place) == undisturbed and case.result() == marker
    assert len(case.history()) == STEPS + 1
    for name in ("model", "history.csv", "certificate.json", "train.json"):
        assert (case.place / name).stat().st_mtime_ns > newest, name


@pytest.mark.parametrize("harm", ["remove", "damage", "cut"])
def test_a_finished_run_that_cannot_be_put_back_trains_again(case: Case, undisturbed: str, harm: str) -> None:
    assert case.start().wait() == 0
    if harm == "remove":
        shutil.rmtree(case.state / "finished")
    elif harm == "cut":
        (case.state / "done.json").write_text("{")
    else:  # the same file under both names
        (case.place / "model" / "model.safetensors").write_bytes(b"damaged")
    remove_outputs(case.place)
    assert case.start().wait() == 0
    assert len(case.events("start")) == 2
    assert weights(case.place) == undisturbed


def test_state_on_another_file_system_keeps_copies(case: Case, undisturbed: str, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    state = other / f"isotone-{os.getpid()}-{tmp_path.name}"
    try:
        for starts in (1, 2):
            assert case.start(variables={"ISOTONE_STATE": str(state)}).wait() == 0, case.text()
            assert weights(case.place) == undisturbed
            (events,) = state.rglob("events.jsonl")
            assert events.read_text().count('"event": "start"') == 1, starts
            remove_outputs(case.place)
    finally:
        shutil.rmtree(state, ignore_errors=True)
