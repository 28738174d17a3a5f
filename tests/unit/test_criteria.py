from __future__ import annotations

import json

import pytest
from isotone.config.health import Criterion
from isotone.config.training import Operation
from isotone.errors import ConfigurationError
from isotone.schema import parse
from isotone.training.state import TrainerState
from isotone.training.supervision.outcome import halted
from isotone.training.telemetry.criteria import Judge
from isotone.training.telemetry.history import History


def judged(folder, criteria, rows, use=None):
    events = []
    told = [parse(Criterion, criterion) for criterion in criteria]
    judge = Judge(told, folder, lambda kind, **facts: events.append((kind, facts)), lambda: use)
    judge.on_resume(TrainerState())
    for step, row in enumerate(rows, 1):
        judge.on_row({"step": step, **row}, TrainerState())
    return judge, events


SLOW = {"measure": "throughput", "limit": 1000, "by_step": 30}


def test_a_healthy_run_has_no_flags(tmp_path):
    rows = [{"tokens_per_second": 1500.0, "loss": 5 - step / 100, "rss": 2**30} for step in range(80)]
    criteria = [SLOW, {"measure": "memory", "limit": 2, "by_step": 10}, {"measure": "loss_decreasing", "limit": 0.2}]
    judge, events = judged(tmp_path, criteria, rows)
    assert judge.flags == [] and events == [] and not (tmp_path / "flags.json").exists()


@pytest.mark.parametrize(
    ("criterion", "row", "words"),
    [
        (SLOW, {"tokens_per_second": 900.0}, "900 tokens/s, less than 1000 (step 30)"),
        ({"measure": "memory", "limit": 1, "by_step": 20}, {"rss": 3 * 2**29}, "1.50 GiB, more than 1 (step 20)"),
        ({"measure": "memory", "limit": 1, "by_step": 20}, {"rss": 1, "memory_reserved": 2**31}, "2.00 GiB"),
        ({"measure": "utilisation", "limit": 50, "by_step": 20}, {}, "12.5 percent, less than 50"),
        ({"measure": "loss_decreasing", "by_step": 40}, {"loss": 3.0}, "fallen by 0.0000 nats"),
    ],
)
def test_a_breach_is_flagged_once(tmp_path, criterion, row, words):
    judge, events = judged(tmp_path, [criterion], [row] * 60, use=12.5)
    assert len(judge.flags) == len(events) == 1 and words in judge.flags[0]
    assert json.loads((tmp_path / "flags.json").read_text())["flags"] == judge.flags
    assert halted(tmp_path, tmp_path / "study") is None


def test_single_slow_steps_are_no_breach(tmp_path):
    rows = [{"tokens_per_second": 10.0 if step % 5 == 0 else 1500.0} for step in range(60)]
    assert judged(tmp_path, [SLOW], rows)[0].flags == []


def test_halt_stops_the_run_and_a_later_start_remembers(tmp_path):
    rows = [{"tokens_per_second": 1.0}] * 40
    judged(tmp_path, [SLOW | {"action": "halt"}], rows)
    assert halted(tmp_path, tmp_path / "study") == tmp_path / "HALT"
    judge, events = judged(tmp_path, [SLOW], rows)
    assert len(judge.flags) == 1 and events == []


def test_a_floor_of_zero_is_refused():
    with pytest.raises(ConfigurationError, match="needs a limit above 0"):
        parse(Operation, {"criteria": [{"measure": "throughput"}]})
    assert parse(Operation, {"criteria": [{"measure": "loss_decreasing"}]}).criteria[0].by_step == 50


def columns(**values):
    return [
        {name: series[index] for name, series in values.items()} for index in range(len(next(iter(values.values()))))
    ]


@pytest.mark.parametrize(
    ("criterion", "row", "words"),
    [
        ({"measure": "fetch_seconds", "max": 0.5, "by_step": 20}, {"fetch_seconds": 0.75}, "fetch_seconds: 0.75, more than 0.5"),
        ({"measure": "free_disk", "min": 1e9, "by_step": 20}, {"free_disk": 5e8}, "5e+08, less than 1e+09 (step 20)"),
        ({"measure": "validation_loss", "max": 3, "by_step": 20}, {"validation_loss": 4.0}, "4, more than 3"),
    ],
)  # fmt: skip
def test_any_column_of_the_history_has_bounds(tmp_path, criterion, row, words):
    judge, _ = judged(tmp_path, [criterion], [row] * 40)
    assert len(judge.flags) == 1 and words in judge.flags[0]
    healthy = {name: 2.0 if name != "free_disk" else 5e9 for name in row if name != "fetch_seconds"}
    assert judged(tmp_path / "other", [criterion], [healthy or {"fetch_seconds": 0.1}] * 40)[0].flags == []


def test_single_values_beyond_a_bound_are_no_breach(tmp_path):
    rows = columns(fetch_seconds=[9.0 if step % 5 == 0 else 0.1 for step in range(80)])
    assert judged(tmp_path, [{"measure": "fetch_seconds", "max": 0.5}], rows)[0].flags == []


GROWS = {"measure": "rss", "change": True, "max": 2**20, "by_step": 20}


def test_memory_that_keeps_growing_and_a_loss_that_drifts(tmp_path):
    grows = columns(rss=[10 * 2**20 + step * 2**16 for step in range(80)], loss=[2 + step / 100 for step in range(80)])
    drifts = {"measure": "loss", "change": True, "max": 0.3, "by_step": 30}
    judge, _ = judged(tmp_path, [GROWS, drifts], grows)
    assert [flag.partition(":")[0] for flag in judge.flags] == ["rss change", "loss change"]
    assert "since step 30, more than 0.3" in judge.flags[1]
    steady = columns(
        rss=[step * 2**20 for step in range(10)] + [9 * 2**20] * 70, loss=[5 - step / 20 for step in range(80)]
    )
    assert judged(tmp_path / "b", [GROWS, drifts], steady)[0].flags == []  # what is taken before by_step is no growth


def test_a_start_that_goes_on_knows_what_the_steps_before_were_like(tmp_path):
    """The base of a change, and the first losses, are those of the run, not of the start."""
    history = History(tmp_path / "history.csv", [])
    history.open(0, 0)
    rows = columns(rss=[10 * 2**20 + step * 2**16 for step in range(80)], loss=[5 - step / 20 for step in range(80)])
    for step, row in enumerate(rows[:45], 1):
        history.write({"step": step, **row})
    history.close()
    criteria = [GROWS, {"measure": "loss_decreasing", "limit": 1.5, "by_step": 50}]
    judge = Judge([parse(Criterion, entry) for entry in criteria], tmp_path, lambda *_, **__: None, lambda: None)
    judge.on_resume(TrainerState(step=45))
    for step, row in enumerate(rows[45:], 46):
        judge.on_row({"step": step, **row}, TrainerState())
    assert [flag.partition(":")[0] for flag in judge.flags] == ["rss change"]


def test_a_monitor_that_reads_nothing_breaks_the_criterion(tmp_path, monkeypatch):
    busy = {"measure": "utilisation", "limit": 50, "by_step": 20}
    assert judged(tmp_path, [busy], [{}] * 60, use=None)[0].flags == []  # it may only have begun
    monkeypatch.setattr("isotone.training.telemetry.criteria.UNWATCHED", 0.0)
    judge, _ = judged(tmp_path, [busy], [{}] * 60, use=None)
    assert judge.flags == ["utilisation: no reading of any GPU for 0 s (step 20)"]


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        ({"measure": "fetch_second", "max": 1}, 'Did you mean "fetch_seconds"'),
        ({"measure": "fetch_seconds"}, "needs min or max"),
        ({"measure": "fetch_seconds", "max": 1, "limit": 2}, "needs min or max, and no limit"),
        ({"measure": "memory", "max": 1}, "is judged by its limit"),
        ({"measure": "throughput", "limit": 5, "change": True}, "is judged by its limit"),
    ],
)
def test_criteria_that_say_nothing_are_refused(criterion, words):
    with pytest.raises(ConfigurationError, match=words):
        parse(Operation, {"criteria": [criterion]})
