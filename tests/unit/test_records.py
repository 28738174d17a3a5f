"""Files are whole or absent, and what is read is what was written."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from isotone import records
from isotone.errors import InputOutputError


def test_canonical_json_has_one_spelling() -> None:
    assert records.canonical_json({"b": 1, "a": [1.5, "ä"]}) == '{"a":[1.5,"ä"],"b":1}'
    assert records.digest_of({"a": 1, "b": 2}) == records.digest_of({"b": 2, "a": 1})
    assert records.digest_of({"a": 1}) != records.digest_of({"a": 2})
    with pytest.raises(ValueError):
        records.canonical_json(math.nan)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "marker.json"
    records.write_json(path, {"n": 1})
    with pytest.raises(ValueError):
        records.write_json(path, {"n": math.inf})
    with pytest.raises(RuntimeError), records.whole_file(path) as file:
        file.write("half")
        raise RuntimeError
    assert records.read_json(path) == {"n": 1}
    assert os.listdir(tmp_path) == ["marker.json"]


def test_a_killed_writer_leaves_no_file(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from isotone.records import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as f:\n f.write('x' * 100000); f.flush(); print('half', flush=True); time.sleep(60)"
    )
    target = tmp_path / "rows.jsonl"
    with subprocess.Popen([sys.executable, "-c", program, str(target)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not target.exists()


def test_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with records.whole_folder(target) as part:
        (part / "a").write_text("1")
        assert not target.exists()
    with records.whole_folder(target) as part:
        (part / "b").write_text("2")
        (part / "b").chmod(0o600)
    assert os.listdir(target) == ["b"]
    assert (target / "b").stat().st_mode & 0o444 == target.stat().st_mode & 0o444, "others can read it as the folder"
    with pytest.raises(RuntimeError), records.whole_folder(target) as part:
        raise RuntimeError
    assert os.listdir(target) == ["b"] and os.listdir(tmp_path) == ["model"]


def test_folder_digest_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = records.folder_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = records.folder_digest(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, records.folder_digest(tmp_path)}) == 3


def test_nothing_has_no_digest(tmp_path: Path):
    """An empty folder has the digest of every other empty folder: a marker that names it says nothing."""
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputOutputError, match="missing or not whole"):
            records.folder_digest(folder)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputOutputError, match="missing or not whole"):
        records.folder_digest(tmp_path, "*.safetensors")


def test_rows_round_trip_with_their_schema(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"document": "ä\u2028b", "nll": 1.25}, {"document": "c", "nll": 2.0}]
    assert records.write_rows(path, "perplexity/1", rows) == 2
    assert records.read_rows(path, "perplexity/1") == rows
    with pytest.raises(InputOutputError, match="does not follow"):
        records.read_rows(path, "perplexity/2")


def test_rows_refuse_nan_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match="row 2 has nll"):
        records.write_rows(path, "x/1", [{"nll": 1.0}, {"nll": math.nan}])
    assert not path.exists()
    path.write_text('{"schema":"x/1","nll":1.0}\n{"schema":"x/1","nl')
    with pytest.raises(InputOutputError, match="line 2 is damaged"):
        records.read_rows(path, "x/1")
    with pytest.raises(InputOutputError, match="missing"):
        records.read_rows(tmp_path / "none", "x/1")


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"a":')
    with pytest.raises(InputOutputError, match=r"m\.json is damaged"):
        records.read_json(tmp_path / "m.json")


def test_importing_the_light_parts_does_not_import_torch() -> None:
    program = "import sys, isotone, isotone.studies.study, isotone.records, isotone.planning.preflight, isotone.provenance; print('torch' in sys.modules)"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False" and time.monotonic() - started < 30
