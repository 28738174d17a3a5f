"""Who lives, who was killed, and what every start said."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from isotone.errors import ConfigurationError
from isotone.training.supervision import liveness
from isotone.training.supervision.liveness import declare_start, judge
from isotone.training.supervision.outcome import refuse, write_outcome
from isotone.training.supervision.startlog import keep_log

TRAINER = """
import sys, time
from pathlib import Path
from isotone.training.supervision.liveness import declare_start
declare_start(Path(sys.argv[1]), "a/seed-1", lease=30.0, log=None)
print("trains", flush=True)
time.sleep(300)
"""


def test_a_trainer_that_is_killed_outright_is_told_at_once(tmp_path: Path) -> None:
    """SIGKILL leaves no word; the process is missed, even while its parent has not taken notice of its end."""
    assert judge(tmp_path).state == "unknown"
    process = subprocess.Popen([sys.executable, "-c", TRAINER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "trains\n"
    assert judge(tmp_path).state == "running"
    process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while judge(tmp_path).state == "running" and time.monotonic() < end:
        time.sleep(0.01)
    found = judge(tmp_path)
    assert found.state == "killed"
    assert f"process {process.pid}" in found.note
    process.wait()
    assert judge(tmp_path).state == "killed"


def start(folder: Path, **changes: Any) -> None:
    declare_start(folder, "a/seed-1", lease=30.0, log=folder / "logs/x.log")
    word = json.loads((folder / "start.json").read_text())
    (folder / "start.json").write_text(json.dumps(word | changes))


def test_a_number_that_another_process_has_by_now_is_not_the_trainer(tmp_path: Path) -> None:
    start(tmp_path)
    assert judge(tmp_path).state == "running"
    start(tmp_path, began=1000.0)
    assert judge(tmp_path).state == "killed"


@pytest.mark.parametrize("elsewhere", [{"host": "another-node"}, {"namespace": "pid:[1]"}])
def test_on_another_machine_the_lease_is_the_sign_of_life(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    """Also in a container beside this one, where process numbers mean something else."""
    start(tmp_path, pid=2**22 + 1, **elsewhere)
    lock = tmp_path / "lock"
    lock.touch()
    assert judge(tmp_path).state == "running"
    assert judge(tmp_path, time.time() + 50).state == "running"
    found = judge(tmp_path, time.time() + 100)
    assert found.state == "killed"
    assert "no sign of life" in found.note
    lock.unlink()
    assert "let go of its lease" in judge(tmp_path).note


def test_what_a_start_said_of_its_end_counts_until_the_next(tmp_path: Path) -> None:
    start(tmp_path)
    for code, state, note in (
        (75, "paused", "stopped"),
        (1, "failed", "at last"),
        (74, "failed", "at last"),
        (0, "ended", ""),
    ):
        write_outcome(tmp_path, code, "stopped\nat last", step=1, steps=2)
        found = judge(tmp_path)
        assert (found.state, found.note, found.log) == (state, note, tmp_path / "logs/x.log")
    start(tmp_path, time=time.time() + 5)
    assert judge(tmp_path).state == "running"
    refuse(tmp_path, ConfigurationError("the data differ"))
    assert (judge(tmp_path).state, judge(tmp_path).note) == ("failed", "the data differ")


def test_damaged_words_are_no_words(tmp_path: Path) -> None:
    (tmp_path / "start.json").write_text("{")
    assert judge(tmp_path).state == "unknown"
    assert liveness._lives(os.getpid(), 0.0) is False
    assert socket.gethostname()


LOGGED = """
import sys
from pathlib import Path
from isotone.training.supervision.startlog import keep_log
path = keep_log(Path(sys.argv[1]))
print("one", file=sys.stderr)
sys.stderr.write("\\rhalf")
sys.stderr.write("\\rwhole\\n")
print(path)
raise SystemError("its end")
"""


def test_every_start_keeps_its_log_whatever_ends_it(tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", LOGGED, str(tmp_path)], capture_output=True)
        texts.append(Path(done.stdout.decode().strip()).read_text())
        assert b"one\n\rhalf\rwhole\n" in done.stderr
        assert b"SystemError: its end" in done.stderr
    assert len(list((tmp_path / "logs").iterdir())) == 2
    for text in texts:
        lines = text.splitlines()
        assert [line.partition(" ")[2] for line in lines[:2]] == ["one", "whole"]
        assert lines[-1].endswith("SystemError: its end")
        assert all(line[10] == "T" and line.partition(" ")[0].endswith("Z") for line in lines)


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = sys.stderr
    assert keep_log(tmp_path / "file") is None
    assert sys.stderr is before
