"""Accounting and controller disagree: what a job is taken for."""

from __future__ import annotations

import pytest
from isotone.cluster.states import PATIENCE, Reconciler


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("accounting", "controller", "taken"),
    [
        ("RUNNING", "RUNNING", "RUNNING"),
        ("RUNNING", None, "RUNNING"),  # runs for accounting, unknown to the controller: not yet lost
        (None, "RUNNING", "RUNNING"),  # accounting lags behind the start
        ("RUNNING", "COMPLETED", "COMPLETED"),  # and behind the end
        (None, "FAILED", "FAILED"),
        ("FAILED", "PENDING", "PENDING"),  # requeued; the record is of an earlier start
        ("COMPLETED", "RUNNING", "RUNNING"),
        ("CANCELLED by 0", None, "CANCELLED"),
        ("COMPLETED", None, "COMPLETED"),  # forgotten by the controller (MinJobAge)
        ("NODE_FAIL", "PENDING", "NODE_FAIL"),  # the plugin then excludes that node, and waits
        ("PREEMPTED", "COMPLETING", "PREEMPTED"),
        ("OUT_OF_MEMORY", "OUT_OF_MEMORY", "OUT_OF_MEMORY"),
    ],
)
def test_the_controller_knows_what_is_alive(accounting: str | None, controller: str | None, taken: str) -> None:
    told = {"7": accounting} if accounting else {}
    seen = {"7": controller} if controller else {}
    reconcile = Reconciler(Clock())
    for _ in range(3):  # not a matter of patience
        assert reconcile(["7"], told, seen) == {"7": taken}


@pytest.mark.parametrize("seen", [{}, {"7": "PREEMPTED"}, {"7": "NODE_FAIL"}])
def test_a_job_that_nobody_brings_back_has_failed(seen: dict[str, str]) -> None:
    """Seen twice, since a requeued job is between two states for a moment."""
    reconcile = Reconciler(Clock())
    assert reconcile(["7"], {"7": "PREEMPTED"}, seen) == {"7": "RUNNING"}
    assert reconcile(["7"], {"7": "PREEMPTED"}, {"7": "PENDING"}) == {"7": "PREEMPTED"}
    assert reconcile(["7"], {"7": "PREEMPTED"}, seen) == {"7": "RUNNING"}
    assert reconcile(["7"], {"7": "PREEMPTED"}, seen) == {"7": "FAILED"}


@pytest.mark.parametrize("told", [{"7": "RUNNING"}, {"7": "PENDING"}, {}])
def test_a_job_that_slurm_has_lost_fails_after_a_while(told: dict[str, str]) -> None:
    clock = Clock()
    reconcile = Reconciler(clock)
    assert reconcile(["7"], told, {}) == told
    clock.now = PATIENCE - 1
    assert reconcile(["7"], told, {}) == told
    clock.now = PATIENCE + 1
    assert reconcile(["7"], told, {}) == {"7": "FAILED"}


def test_an_accounting_that_lags_by_a_minute_costs_nothing() -> None:
    """The controller forgets an ended job at once here (MinJobAge), accounting learns of the end a minute later."""
    clock = Clock()
    reconcile = Reconciler(clock)
    answers = []
    for second in range(0, 90, 10):
        clock.now = second
        answers.append(reconcile(["7"], {"7": "RUNNING" if second < 60 else "COMPLETED"}, {})["7"])
    assert answers == ["RUNNING"] * 6 + ["COMPLETED"] * 3


def test_nothing_is_lost_while_nobody_answers() -> None:
    clock = Clock()
    reconcile = Reconciler(clock)
    for second in (0, PATIENCE, 3 * PATIENCE):
        clock.now = second
        assert reconcile(["7"], None, None) == {}
        assert reconcile(["7"], {"7": "RUNNING"}, None) == {"7": "RUNNING"}
        assert reconcile(["7"], None, {}) == {}
        assert reconcile(["7"], None, {"7": "RUNNING"}) == {"7": "RUNNING"}
