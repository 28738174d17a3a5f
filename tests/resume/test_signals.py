"""Signals, deadlines, HALT and hangs: stopping in good order loses no step."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from isotone.training.supervision.liveness import judge

from tests.resume.forks import Fault, Start, wait_for
from tests.resume.runs import STEPS, Case, weights

SIGNALS = 50
NEVER = {"save_every_minutes": 0}  # no timed saves: what is on disk was saved because of the signal


def test_fifty_sigterms_lose_no_step(case: Case, undisturbed: str) -> None:
    chance, asked, lost = random.Random(1), 0, 0
    case.settings["training"] = {}
    while asked < SIGNALS:
        start = case.start(operation=NEVER)
        _wait_until_it_trains(case, start)
        start.process.join(chance.uniform(0, 0.05))
        seen = _last_row(case)
        start.signal(signal.SIGTERM)
        code = start.wait()
        asked += 1
        if code == 0:
            assert weights(case.place) == undisturbed
            for name in ("model", "state"):
                os.rename(case.place / name, case.place / f"{name}-{asked}")
            continue
        assert code == 75, start.text()[-3000:]
        assert case.outcome()["code"] == 75
        assert case.steps()[-1] == case.outcome()["step"]
        lost += case.outcome()["step"] < seen
    assert lost == 0
    assert case.start().wait() == 0
    assert weights(case.place) == undisturbed


def _wait_until_it_trains(case: Case, start: Start) -> None:
    wait_for(lambda: not start.process.is_alive() or _trains(case, start.pid))


def _trains(case: Case, pid: int) -> bool:
    return any(row["pid"] == pid for kind in ("start", "resume") for row in _safe(case, kind))


def _safe(case: Case, kind: str) -> list[dict]:
    try:
        return case.events(kind)
    except (FileNotFoundError, AssertionError):
        return []


def _last_row(case: Case) -> int:
    lines = (case.state / "history.csv").read_text().splitlines() if (case.state / "history.csv").exists() else []
    return int(lines[-1].split(",")[0]) if len(lines) > 1 else 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_other_signals_stop_it_too(case: Case, undisturbed: str, number: int) -> None:
    start = case.start(operation=NEVER)
    _wait_until_it_trains(case, start)
    start.signal(number)
    start.signal(signal.SIGTERM)  # the second one of a preemption is no reason to hurry
    assert start.wait() == 75
    assert "run again to continue" in start.text()
    assert case.start().wait() == 0
    assert weights(case.place) == undisturbed


def test_sigusr2_writes_the_stacks_and_changes_nothing(case: Case, undisturbed: str) -> None:
    start = case.start()
    _wait_until_it_trains(case, start)
    start.signal(signal.SIGUSR2)
    assert start.wait() == 0
    assert "loop.py" in (case.state / "stacks.txt").read_text()
    assert weights(case.place) == undisturbed


def test_a_slow_disk_delays_the_exit_but_loses_nothing(case: Case, undisturbed: str) -> None:
    start = case.start(operation=NEVER, limits={"slow_fsync": 60})
    _wait_until_it_trains(case, start)
    start.signal(signal.SIGTERM)
    assert start.wait() == 75
    assert case.steps()[-1] == case.outcome()["step"]
    assert case.start().wait() == 0
    assert weights(case.place) == undisturbed


def test_a_save_that_cannot_finish_in_the_grace_is_not_begun(case: Case, undisturbed: str) -> None:
    operation = {"grace": 0.5, "save_every_minutes": 0, "background_save": False}
    start = case.start(operation=operation, limits={"slow_fsync": 150})
    wait_for(lambda: _safe(case, "save"))  # the first one tells how slow the disk is
    known = case.steps()
    start.signal(signal.SIGTERM)
    assert start.wait() == 75
    assert case.events("unsaved")
    assert case.steps() in (known, [*known, case.steps()[-1]])
    assert not list(case.checkpoints.glob(".tmp-*"))
    assert case.start().wait() == 0
    assert weights(case.place) == undisturbed


def test_a_signal_during_validation_stops_it_and_validates_again(case: Case, undisturbed: str) -> None:
    start = case.start(operation=NEVER, settings={"training": {"validation_blocks": 8}}, fault=Fault("count"))
    wait_for(lambda: start.process.is_alive())
    start.signal(
        signal.SIGTERM
    )  # before the handlers stand it ends the process, afterwards it stops the first validation
    assert start.wait() in (75, -signal.SIGTERM)
    assert case.start().wait() == 0
    assert weights(case.place) == undisturbed


def test_the_end_of_the_job_is_known_and_saved_for(case: Case, undisturbed: str) -> None:
    start = case.start(operation=NEVER, variables={"SLURM_JOB_END_TIME": str(int(time.time()) + 3)})
    assert start.wait() == 75
    assert "time limit" in start.text()
    assert case.start(variables={"SLURM_JOB_END_TIME": str(int(time.time()) + 3600)}).wait() == 0
    assert weights(case.place) == undisturbed


@pytest.mark.parametrize("everywhere", [True, False])
def test_halt_stops_a_run_and_keeps_it_from_starting(case: Case, undisturbed: str, everywhere: bool) -> None:
    start = case.start(operation={"save_every_steps": 1})
    _wait_until_it_trains(case, start)
    place = case.place if everywhere else case.state
    (place / "HALT").touch()
    code = start.wait()
    assert code in (0, 75)  # it may have ended before it looked: once a second
    again = case.start(log="again.txt")
    assert again.wait() == 75
    assert "isotone resume" in again.text()
    (place / "HALT").unlink()
    assert case.start().wait() == 0
    assert weights(case.place) == undisturbed


def test_a_hang_is_noticed_its_stacks_written_and_the_run_goes_on_later(case: Case, undisturbed: str) -> None:
    """A step that never ends; saves and the like may take as long as they want (tests/unit/test_training_watching.py)."""
    operation = {"watchdog": 10.0, "watchdog_floor": 4.0, "save_every_steps": 1, "background_save": False}
    start = case.start(operation=operation, limits={"stuck_at_step": 6})
    assert start.wait() == 75
    assert case.outcome()["code"] == 75 and case.outcome()["step"] == 6
    assert case.steps()[-1] == 6
    assert len(case.events("hang")) == 1
    stacks = (case.state / "stacks.txt").read_text()
    assert "no step for" in stacks
    assert (
        "in slow_read" in stacks and "in _step" in stacks
    )  # the reader that hangs (in forks.py), and who waits for it
    assert case.start().wait() == 0
    assert weights(case.place) == undisturbed


def test_a_run_that_was_suspended_for_longer_than_the_watchdog_waits_goes_on(case: Case, undisturbed: str) -> None:
    """`scontrol suspend` stops all processes of a job."""
    start = case.start(operation={"watchdog_floor": 3.0}, limits={"slow_read": 300})
    wait_for(
        lambda: _safe(case, "start") and _last_row(case) >= 2
    )  # in a step, for it waits for texts most of the time
    start.signal(signal.SIGSTOP)
    time.sleep(8)
    start.signal(signal.SIGCONT)
    assert start.wait() == 0, start.text()
    assert not _safe(case, "hang") and weights(case.place) == undisturbed


def test_max_epochs_per_run_prints_where_it_stands_and_changes_no_bit(case: Case, undisturbed: str) -> None:
    for epoch in (1, 2):
        start = case.start(max_epochs_per_run=1, log=f"epoch-{epoch}.txt")
        assert start.wait() == 75
        assert f"epoch {epoch} of 3 done; run again to continue" in start.text()
    assert case.start(max_epochs_per_run=1).wait() == 0
    assert weights(case.place) == undisturbed
    assert case.result()["steps"] == STEPS


@pytest.mark.parametrize(
    "operation",
    [{"background_save": False}, {"prefetch": 0}, {"save_every_steps": 1, "keep": 1}, {"tensorboard": True}],
)
def test_how_a_run_is_operated_changes_no_bit(case: Case, undisturbed: str, operation: dict) -> None:
    assert case.start(operation=operation).wait() == 0, case.text()
    assert weights(case.place) == undisturbed


def test_a_trainer_that_is_killed_is_missed_and_every_start_keeps_its_log(case: Case, undisturbed: str) -> None:
    """SIGKILL leaves no word, and the workflow removes its own log before the next attempt."""
    start = case.start(operation={"save_every_steps": 1})
    wait_for(lambda: (case.place / "state").exists() and case.steps())
    start.signal(signal.SIGKILL)
    assert start.wait() == -signal.SIGKILL
    assert judge(case.state).state == "killed"
    first = judge(case.state).log
    assert first and "validation loss" in first.read_text()
    case.log.unlink()
    assert case.start().wait() == 0, case.text()
    assert weights(case.place) == undisturbed
    assert judge(case.state).state == "ended"
    assert len(list((case.state / "logs").iterdir())) == 2
    assert "isotone: done" in judge(case.state).log.read_text()  # type: ignore[union-attr]
