"""One trainer per state folder; who lost the lease never commits."""

from __future__ import annotations

import signal
import time

from tests.resume.forks import wait_for
from tests.resume.runs import Case, weights

INITS = 50


def test_of_fifty_simultaneous_starts_one_trains(case: Case, undisturbed: str) -> None:
    starts = [case.start(operation={"lock_wait": 0}, log=f"{number}.txt") for number in range(INITS)]
    codes = [start.wait() for start in starts]
    assert set(codes) <= {0, 75}
    trained = [event["pid"] for event in case.events("start")]
    finished = [start.pid for start, code in zip(starts, codes, strict=True) if code == 0]
    assert len(trained) == 1 or case.events("done_before")
    assert set(trained) <= set(finished)
    waiting = [start for start, code in zip(starts, codes, strict=True) if code == 75]
    assert all("Another trainer holds" in start.text() for start in waiting)
    assert weights(case.place) == undisturbed


def test_a_second_start_waits_and_then_finds_the_work_done(case: Case, undisturbed: str) -> None:
    first = case.start()
    wait_for(lambda: list((case.place / "state").glob("*/history.csv")))
    second = case.start(operation={"lock_wait": 60}, log="second.txt")
    assert first.wait() == 0
    assert second.wait() == 0, second.text()
    (case.place / "train.json").unlink()
    assert case.start().wait() == 0
    assert weights(case.place) == undisturbed  # the marker stands again
    assert len(case.events("start")) == 1
    assert case.events("done_before")


def test_a_stopped_holder_past_its_lease_never_commits(case: Case, undisturbed: str) -> None:
    operation = {"lease": 0.6, "save_every_steps": 1, "keep_state": True}
    old = case.start(operation=operation, log="old.txt")
    wait_for(lambda: len(case.steps()) > 1)
    old.signal(signal.SIGSTOP)
    time.sleep(0.7)
    new = case.start(operation=operation, log="new.txt")
    assert new.wait() == 0, new.text()
    left = sorted(path.name for path in case.state.rglob("*") if "checkpoints" in str(path))
    old.signal(signal.SIGCONT)
    assert old.wait() == 75, old.text()
    assert "lost its lease" in old.text()
    assert left == sorted(path.name for path in case.state.rglob("*") if "checkpoints" in str(path))
    assert case.outcome()["code"] == 0  # the old holder did not touch the successor's outcome
    assert weights(case.place) == undisturbed
