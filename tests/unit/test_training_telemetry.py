"""History, events, heartbeats and TensorBoard files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from isotone.training.telemetry import history as telemetry
from isotone.training.telemetry.history import Events, History, Telemetry, resident_memory
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
        history.row({"step": step, "loss": 1 / 3, "tokens": 10})


def test_history_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    history = History(path, ["matrices"])
    history.open(0, 0)
    rows(history, range(1, 5))
    position = history.position()
    rows(history, range(5, 9))
    history.close()
    again = History(path, ["matrices"])
    again.open(position, 4)
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
    history.row({"step": 9})  # closed: lost, without an error


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


def test_a_heartbeat_says_where_the_run_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(telemetry.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    made = Telemetry(tmp_path, name="baseline/seed-1", rank=0, groups=["matrices"], steps=100, tensorboard=True)
    other = Telemetry(tmp_path, name="baseline/seed-1", rank=1, groups=["matrices"], steps=100, tensorboard=True)
    made.resume(10, 0)
    beat = json.loads((tmp_path / "heartbeat.json").read_text())  # before the first step, which may take long
    assert (beat["step"], beat["name"], beat["loss"], beat["eta_seconds"]) == (10, "baseline/seed-1", None, None)
    other.resume(10, 0)
    events = Events(tmp_path)
    for step in range(11, 31):
        clock[0] += 0.5
        row = {"step": step, "epoch": 0.1, "loss": 2.0, "tokens_per_second": 1234.0, "fetch_seconds": 0.1}
        made.step(row, goodput=0.9, state_bytes=60, event=events)
        other.step(dict(row), goodput=0.9, state_bytes=0, event=events)
    made.close()
    other.close()
    beat = json.loads((tmp_path / "heartbeat.json").read_text())
    assert (beat["step"], beat["steps"], beat["name"], beat["rank"], beat["goodput"]) == (
        30,
        100,
        "baseline/seed-1",
        0,
        0.9,
    )
    assert beat["eta_seconds"] == pytest.approx(70 * 10 / 20)
    assert json.loads((tmp_path / "heartbeat-1.json").read_text())["rank"] == 1
    alarms = [line for line in (tmp_path / "events.jsonl").read_text().splitlines() if "nearly full" in line]
    assert len(alarms) == 1  # said once, not every step
    assert "step 20 of 100, loss 2.0000, 1.2k tokens/s" in capsys.readouterr().err
    assert (tmp_path / "history.csv").read_text().count("\n") == 21
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_terminal_shows_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(telemetry.sys.stderr, "isatty", lambda: True, raising=False)
    made = Telemetry(tmp_path, name="x", rank=0, groups=[], steps=10, tensorboard=False)
    made.resume(0, 0)
    made._every = 0.0
    made.step({"step": 5, "loss": 1.0, "tokens_per_second": 1.0}, goodput=1, state_bytes=0, event=Events(tmp_path))
    assert "[==========          ] step 5 of 10" in capsys.readouterr().err


def test_resident_memory_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first = resident_memory()
    block = bytearray(struct.pack("d", 1.0) * (8 << 20))
    assert resident_memory() - first > 0.8 * len(block)
    monkeypatch.setattr(Path, "read_text", lambda _: (_ for _ in ()).throw(OSError()))
    assert resident_memory() > 1 << 20  # without /proc
