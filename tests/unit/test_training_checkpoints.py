"""Checkpoints on disk, and what is done about full, slow and lying disks."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from isotone.errors import InputOutputError
from isotone.training.checkpointing import manifest
from isotone.training.checkpointing import store as checkpoints
from isotone.training.checkpointing.saver import Saver
from isotone.training.checkpointing.store import Store, retained, with_patience
from isotone.training.checkpointing.tensors import read_tensors, write_tensors
from safetensors.torch import load_file


class Heard(list):
    """Events that were told."""

    def __call__(self, kind: str, **facts: Any) -> None:
        self.append((kind, facts))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self]


def state(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    names = {"a.weight": (5, 7), "a.bias": (7,), "empty": (0, 3)}
    return {
        kind: {name: torch.randn(shape, generator=generator) for name, shape in names.items()}
        for kind in ("weights", "exp_avg", "exp_avg_sq")
    }


def progress(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "ledger": 0, **more}


def saver(store: Store, **changes: Any) -> Saver:
    options: dict[str, Any] = {
        "background": False,
        "label": "1",
        "retained": lambda steps: set(sorted(steps)[-2:]),
        "essential": set,
        "before": lambda: None,
    }
    return Saver(store, **(options | changes))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def store(tmp_path: Path, heard: Heard) -> Store:
    return Store(tmp_path, heard)


def test_files_are_safetensors_that_any_tool_reads(tmp_path: Path) -> None:
    tensors = {
        "f": torch.randn(3, 4),
        "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 2),
        "b": torch.randn(5).bfloat16(),
        "i": torch.arange(3),
        "view": torch.randn(4, 6).T,
    }
    entry = write_tensors(tmp_path / "t.safetensors", tensors)
    theirs, back = load_file(tmp_path / "t.safetensors"), read_tensors(tmp_path / "t.safetensors", entry)
    assert entry["size"] == (tmp_path / "t.safetensors").stat().st_size
    for name, tensor in tensors.items():
        assert torch.equal(theirs[name], tensor)
        assert torch.equal(back[name], tensor)
        assert back[name].dtype == tensor.dtype


def test_every_damage_to_a_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    entry = write_tensors(path, {"f": torch.randn(64)})
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        data = bytearray(whole)
        data[position] ^= 1
        path.write_bytes(data)
        with pytest.raises((InputOutputError, ValueError)):
            read_tensors(path, entry)
    path.write_bytes(whole[:-1])
    with pytest.raises(InputOutputError, match="bytes instead of"):
        read_tensors(path, entry)
    path.write_bytes(whole)
    read_tensors(path, entry)


def test_what_was_written_is_read_back(store: Store) -> None:
    store.write(3, state(), progress(3, note="ä"), "1")
    found = store.newest(lambda _: True)
    assert found is not None
    assert (found.step, found.progress["note"]) == (3, "ä")
    for kind, group in state().items():
        for name, value in group.items():
            assert torch.equal(found.tensors[kind][name], value)
    store.verify(3)
    manifest = json.loads((store.path(3) / "manifest.json").read_text())
    assert set(manifest["files"]) == {
        "weights.safetensors",
        "exp_avg.safetensors",
        "exp_avg_sq.safetensors",
        "progress.json",
    }
    assert not list(store.folder.glob(".*"))


@pytest.mark.parametrize("name", ["weights.safetensors", "exp_avg_sq.safetensors", "progress.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "empty"])
def test_a_damaged_newest_is_put_aside_and_the_one_before_is_taken(
    store: Store, heard: Heard, name: str, damage: str
) -> None:
    for step in (3, 6):
        store.write(step, state(step), progress(step), "1")
    path = store.path(6) / name
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 2
        path.write_bytes({"flip": bytes(data), "cut": bytes(data[: len(data) // 2]), "empty": b""}[damage])
    found = store.newest(lambda _: True)
    assert found is not None
    if found.step == 6:  # a flipped bit in the manifest's white space or in a key that nobody reads harms nothing
        assert (name, damage) == ("manifest.json", "flip")
        return
    assert found.step == 3
    assert store.steps() == [3]
    assert heard.kinds() == ["damaged"]
    assert len(store.quarantined()) == 1


def test_all_damaged_is_said_and_nothing_is_deleted(store: Store) -> None:
    assert store.newest(lambda _: True) is None
    for step in (1, 2):
        store.write(step, state(), progress(step), "1")
        (store.path(step) / "progress.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(InputOutputError, match="holds no whole checkpoint: all 2"):
            store.newest(lambda _: True)
    assert len(store.quarantined()) == 2
    assert store.newest(lambda _: True, before=2) is None


def test_a_checkpoint_of_an_abandoned_branch_is_deleted(store: Store) -> None:
    for step in (1, 2, 3):
        store.write(step, state(), progress(step), "1")
    found = store.newest(lambda facts: facts["step"] < 3, before=3)
    assert found is not None
    assert found.step == 2
    assert store.steps() == [1, 2, 3]
    found = store.newest(lambda facts: facts["step"] < 2)
    assert found is not None
    assert store.steps() == [1]


def test_leftovers_of_a_killed_trainer_are_cleared_away(tmp_path: Path, heard: Heard) -> None:
    for name in (".tmp-000000001-000001", ".trash-000000001-1-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_text("half")
    assert Store(tmp_path, heard).steps() == []
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="full"):
        store.write(1, state(), progress(1), "1")
    assert not list(store.folder.iterdir())


def test_what_stays() -> None:
    def stay(keep: int, always: set[int]) -> list[int]:
        steps = range(0, 100, 5)
        rules = {"is_epoch_end": lambda step: step % 30 == 0, "is_anchor": lambda step: step == 20}
        return sorted(retained(steps, keep=keep, always=always, **rules))  # type: ignore[arg-type]

    assert stay(2, set()) == [20, 60, 90, 95]
    assert stay(3, {15, 17}) == [15, 20, 60, 85, 90, 95]
    assert stay(1, set()) == [20, 60, 90, 95]


def test_patience_with_hiccups_only(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(checkpoints.time, "sleep", waits.append)
    calls = []

    def flaky(code: int, good_at: int) -> int:
        calls.append(code)
        if len(calls) < good_at:
            raise OSError(code, "trouble")
        return len(calls)

    assert with_patience(lambda: flaky(errno.ESTALE, 4)) == 4
    assert waits == [0.5, 1.0, 2.0]
    calls.clear()
    with pytest.raises(OSError, match="trouble"):
        with_patience(lambda: flaky(errno.EIO, 9))
    assert len(calls) == 5
    calls.clear()
    with pytest.raises(OSError, match="trouble"):
        with_patience(lambda: flaky(errno.EACCES, 2))
    assert len(calls) == 1


# The saver


@pytest.mark.parametrize("background", [True, False])
def test_rotation_really_deletes_and_only_after_verification(
    store: Store, heard: Heard, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = saver(store, background=background)
    for step in range(1, 6):
        made.save(step, state(step), progress(step))
    made.join()
    assert store.steps() == [4, 5]
    assert not list(store.folder.glob(".*"))
    assert heard.kinds() == ["save"] * 5
    monkeypatch.setattr(manifest, "file_digest", lambda path: "a disk that lies")
    made.save(6, state(6), progress(6))
    made.join()
    assert store.steps() == [4, 5, 6]  # nothing went, because the new one did not read back
    assert heard.kinds()[-1] == "alarm"
    assert made.failures == 1


def test_the_staged_copy_is_what_is_written(store: Store) -> None:
    gate = threading.Event()
    made = saver(store, background=True, before=gate.wait)
    tensors = state()
    made.save(1, tensors, progress(1))
    for group in tensors.values():
        for value in group.values():
            value.fill_(7.0)  # training goes on while the file is written
    gate.set()
    made.join()
    found = store.newest(lambda _: True)
    assert found is not None
    assert torch.equal(found.tensors["weights"]["a.bias"], state()["weights"]["a.bias"])
    made.save(1, tensors, progress(1))  # known already
    made.join()
    assert store.newest(lambda _: True).tensors["weights"]["a.bias"][0] != 7.0  # type: ignore[union-attr]


def test_a_full_disk_makes_room_and_tries_once_more(
    store: Store, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = saver(store, retained=set, essential=lambda: {1})
    made.hurry = True  # no pruning by rotation in this test
    for step in (1, 2, 3):
        made.save(step, state(step), progress(step))
    real, full = store.write, [2]

    def write(*arguments: Any) -> None:
        if full[0]:
            full[0] -= 1
            raise OSError(errno.EDQUOT, "quota")
        real(*arguments)

    monkeypatch.setattr(store, "write", write)
    full[0] = 1
    made.save(4, state(4), progress(4))
    assert store.steps() == [1, 3, 4]
    full[0] = 2
    made.save(5, state(5), progress(5))
    assert store.steps() == [1, 4]
    assert made.failures == 1
    assert [facts["what"] for kind, facts in heard if kind == "alarm"] == [
        "disk full, old checkpoints go",
        "disk full, old checkpoints go",
        "checkpoint not saved",
    ]


def test_the_expected_time_of_a_save_follows_the_slowest(store: Store) -> None:
    made = saver(store)
    made.measure(state())
    assert 0.2 < made.expected_seconds() < 0.3
    made.save(1, state(), progress(1))
    made._rate = 100.0
    assert made.expected_seconds() == pytest.approx(0.2 + made.size / 100)
