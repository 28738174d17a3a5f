from __future__ import annotations

import json

import pytest
from isotone.config.health import Criterion
from isotone.config.schema import parse
from isotone.config.training import Operation
from isotone.errors import ConfigurationError
from isotone.training.supervision.outcome import halted
from isotone.training.telemetry.criteria import Judge


def judged(folder, criteria, rows, use=None):
    events = []
    judge = Judge([parse(Criterion, c) for c in criteria], folder, lambda kind, **facts: events.append((kind, facts)))
    for step, row in enumerate(rows, 1):
        judge.step({"step": step, **row}, lambda: use)
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
