"""History, events, heartbeats and TensorBoard files."""

from __future__ import annotations

import json
import struct
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from isotone.config.health import COLUMNS
from isotone.training.observer import Observers
from isotone.training.state import TrainerState
from isotone.training.telemetry import console, eta, heartbeat, machine
from isotone.training.telemetry.console import Console
from isotone.training.telemetry.events import Events
from isotone.training.telemetry.heartbeat import Heartbeat
from isotone.training.telemetry.history import History, columns
from isotone.training.telemetry.machine import Machine, resident_memory
from isotone.training.telemetry.reading import read_history
from isotone.training.telemetry.rotation import Rotated, older, read_lines
from isotone.training.telemetry.tfevents import EventWriter


def test_tensorboard_reads_what_is_written_and_drops_steps_that_were_undone(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = EventWriter(tmp_path)
    writer.restart(0)
    for step in range(1, 301):
        writer.scalars(step, {"loss": step / 2})
    writer.restart(200)  # back to a checkpoint
    for step in range(201, 221):
        writer.scalars(step, {"loss": -1.0, "learning_rate": 0.5})
    writer.close()
    seen = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    seen.Reload()
    losses = {event.step: event.value for event in seen.Scalars("loss")}
    assert losses == {step: step / 2 for step in range(1, 201)} | {step: -1.0 for step in range(201, 221)}
    assert [event.value for event in seen.Scalars("learning_rate")] == [0.5] * 20


def test_a_closed_or_unwritable_board_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    writer = EventWriter(tmp_path / "file")
    writer.restart(0)
    writer.scalars(1, {"loss": 1.0})
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and not (tmp_path / "file").read_text()


def rows(history: History, steps: range) -> None:
    for step in steps:
        history.write({"step": step, "loss": 1 / 3, "tokens": 10})


def test_history_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    history = History(path, ["matrices"])
    history.open(0, 0)
    rows(history, range(1, 5))
    history.on_save(state := TrainerState(step=4))
    rows(history, range(5, 9))
    history.close()
    again = History(path, ["matrices"])
    again.on_resume(state)
    rows(again, range(5, 7))
    again.sync()
    again.close()
    lines = path.read_text().splitlines()
    assert lines[0].startswith(
        "step,epoch,tokens,loss,validation_loss,learning_rate,grad_norm_matrices,tokens_per_second"
    )
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(1, 7))
    assert len({line.count(",") for line in lines}) == 1
    assert "0.33333333" in lines[1]


def test_a_run_without_a_checkpoint_begins_a_new_history(tmp_path: Path) -> None:
    """Killed between the row of step 0 and the first checkpoint, it tells of step 0 again."""
    history = History(tmp_path / "history.csv", [])
    for _ in range(2):
        history.open(0, 0)
        rows(history, range(0, 1))
        history.close()
    assert [line.split(",")[0] for line in history.path.read_text().splitlines()] == ["step", "0"]


def test_history_that_lost_its_end_keeps_whole_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    history = History(path, [])
    history.open(0, 0)
    rows(history, range(1, 4))
    history.close()
    position = path.stat().st_size
    path.write_text(path.read_text()[:-30])  # the machine lost power: the last row is gone in part
    history.open(position, 2)
    rows(history, range(3, 4))
    history.close()
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["step", "1", "2", "3"]
    history.sync()
    history.write({"step": 9})  # closed: lost, without an error


def test_events_are_lines_in_utc_and_alarms_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = Events(tmp_path)
    events("save", step=3, path=tmp_path)
    events("alarm", what="trouble")
    Events(tmp_path, rank=1)("alarm", what="elsewhere")
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["save", "alarm"]
    assert lines[0]["time"].endswith("+00:00")
    said = capsys.readouterr().err
    assert "trouble" in said
    assert "elsewhere" in said
    assert "save" not in said
    Events(tmp_path / "missing")("save")  # a full or vanished disk stops nothing


def at_time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test moves."""
    clock = [0.0]
    for module in (heartbeat, console, eta):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0], time=lambda: 1000 + clock[0]))
    return clock


def test_every_process_says_where_it_stands_and_keeps_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = at_time(monkeypatch)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    board, history = EventWriter(tmp_path / "tensorboard"), History(tmp_path / "history.csv", ["matrices"])
    first, second = (Heartbeat(tmp_path, name="baseline/seed-1", rank=rank, steps=100) for rank in (0, 1))
    watching = [Machine(tmp_path, Events(tmp_path), state_bytes=lambda: 60), history, board, first, Console(100)]
    leader, other = Observers(*watching), Observers(second)
    state = TrainerState(step=10, begun=1000.0, useful=9.0)
    leader.on_resume(state)
    other.on_resume(state)
    beat = json.loads((tmp_path / "heartbeat.json").read_text())  # before the first step, which may take long
    assert (beat["step"], beat["name"], beat["loss"], beat["eta_seconds"]) == (10, "baseline/seed-1", None, None)
    for step in range(11, 31):
        clock[0] += 0.5
        row = {"step": step, "epoch": 0.1, "loss": 2.0, "tokens_per_second": 1234.0, "fetch_seconds": 0.1}
        leader.on_row(row, state)
        other.on_row(dict(row), state)
    leader.close()
    other.close()
    beat = json.loads((tmp_path / "heartbeat.json").read_text())
    wanted = {"step": 30, "steps": 100, "name": "baseline/seed-1", "rank": 0, "goodput": 0.9, "doing": "steps"}
    assert {key: beat[key] for key in wanted} == wanted
    assert beat["eta_seconds"] == pytest.approx(70 * 10 / 20)
    assert json.loads((tmp_path / "heartbeat-1.json").read_text())["rank"] == 1
    for name in ("heartbeats.jsonl", "heartbeats-1.jsonl"):  # at 0 and at 10 seconds
        assert [json.loads(line)["step"] for line in read_lines(tmp_path / name)] == [10, 30]
    alarms = [line for line in (tmp_path / "events.jsonl").read_text().splitlines() if "nearly full" in line]
    assert len(alarms) == 1  # said once, not every step
    assert "step 20 of 100, loss 2.0000, 1.2k tokens/s" in capsys.readouterr().err
    assert [row["free_disk"] for row in read_history(tmp_path / "history.csv")] == [100] * 20
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_heartbeat_says_what_is_done_instead_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = at_time(monkeypatch)
    beating = Heartbeat(tmp_path, name="x", rank=0, steps=9)
    watching = Observers(beating)
    watching.on_resume(TrainerState())

    def doing() -> str:
        clock[0] += 2
        watching.on_beat()
        return json.loads(beating.path.read_text())["doing"]

    with watching.working("finishing"):
        with watching.working("saving"):
            assert doing() == "saving"
        assert doing() == "finishing"
    assert doing() == "steps"


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True, raising=False)
    made = Console(10)
    made.on_resume(TrainerState())
    made._every = 0.0
    made.on_row({"step": 5, "loss": 1.0, "tokens_per_second": 1.0}, TrainerState())
    assert "[==========          ] step 5 of 10" in capsys.readouterr().err


def test_files_of_lines_stay_below_their_limit_and_keep_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    file = Rotated(path, 1000)
    threads = [threading.Thread(target=lambda: [file.append(f"{number:049d}") for number in range(50)]) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.append("the last")
    assert path.stat().st_size + older(path).stat().st_size < 2100
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["events.1.jsonl", "events.jsonl"]
    lines = read_lines(path)
    assert lines[-1] == "the last"
    assert len(lines) > 20
    assert {len(line) for line in lines[:-1]} == {49}  # whole lines, whoever wrote them


def test_events_do_not_grow_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isotone.training.telemetry.events.LIMIT", 500)
    events = Events(tmp_path)
    for step in range(100):
        events("save", step=step)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1200
    assert json.loads(read_lines(events.path)[-1])["step"] == 99


def test_criteria_may_judge_what_the_history_tells() -> None:
    told = set(columns(["constrained", "matrices", "vectors"]))
    assert set(COLUMNS) == told - {"step", "epoch", "tokens", "seconds"}  # which only count


def test_resident_memory_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first = resident_memory()
    block = bytearray(struct.pack("d", 1.0) * (8 << 20))
    assert resident_memory() - first > 0.8 * len(block)
    monkeypatch.setattr(Path, "read_text", lambda _: (_ for _ in ()).throw(OSError()))
    assert resident_memory() > 1 << 20  # without /proc
