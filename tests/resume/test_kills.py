"""Killed anywhere, same result: random kills and corruptions; kills at every file operation in turn."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.resume.forks import Fault
from tests.resume.runs import STEPS, Case, weights

KILLS, CORRUPTIONS = 100, 10
HALF = {"save_every_steps": 2, "keep": 2}


def corrupt(case: Case, chance: random.Random) -> str:
    """Damage one file of the newest checkpoint: flip a bit, cut it off, or remove it."""
    folder = case.checkpoints / f"step-{case.steps()[-1]:09d}"
    path = chance.choice(sorted(folder.iterdir()))
    kind = chance.choice(["flip", "flip", "cut", "remove"])
    if kind == "flip":
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
    elif kind == "cut":
        os.truncate(path, chance.randrange(path.stat().st_size))
    else:
        path.unlink()
    return f"{kind} {path.name}"


def torment(case: Case, kills: int, corruptions: int, seed: int) -> dict[str, int]:
    """Kill a run again and again at random moments, damage its newest checkpoint now and then, and let it end.

    Goes on until both numbers are reached: a damage that finds only one checkpoint waits for the next kill.
    """
    chance = random.Random(seed)
    when = sorted(chance.sample(range(kills), corruptions))
    count = {"kills": 0, "corruptions": 0, "ended": 0}
    longest = 0.3
    while count["kills"] < kills or when:
        begun = time.monotonic()
        start = case.start()
        start.process.join(chance.uniform(0.0, longest))
        if start.process.exitcode is None:
            start.signal(signal.SIGKILL)
            count["kills"] += start.wait() == -signal.SIGKILL
            if len(case.steps()) < 2 or chance.random() < 0.1:
                longest = min(10.0, longest * 1.1)  # on a slow machine a start must live long enough to get anywhere
        else:
            assert start.wait() == 0, start.text()[-3000:]
            count["ended"] += 1
            longest = max(0.1, 0.7 * (time.monotonic() - begun))
            for name in ("model", "state"):
                shutil.rmtree(case.place / name)
        if when and count["kills"] > when[0] and len(case.steps()) > 1:
            when.pop(0)
            corrupt(case, chance)
            count["corruptions"] += 1
    if case.start().wait() != 0:
        raise AssertionError(case.text()[-3000:])
    return count


@pytest.mark.timeout(900)
def test_a_hundred_kills_and_ten_corruptions_change_no_bit(case: Case, undisturbed: str) -> None:
    case.operation = {"save_every_steps": 1}
    count = torment(case, KILLS, CORRUPTIONS, seed=5)
    assert count["kills"] >= KILLS and count["corruptions"] == CORRUPTIONS
    assert weights(case.place) == undisturbed
    assert list(case.history()["step"]) == list(range(STEPS + 1))
    assert case.events("damaged") or count["ended"]


def test_two_kills_in_one_run_lose_no_row_of_the_history(case: Case, undisturbed: str) -> None:
    case.operation = {"save_every_steps": 1}
    for _ in range(2):
        start, before = case.start(), case.steps()[-1:]
        while case.steps()[-1:] == before and start.process.is_alive():
            time.sleep(0.002)
        start.signal(signal.SIGKILL)
        start.wait()
    assert case.start().wait() == 0, case.text()
    assert weights(case.place) == undisturbed
    history = case.history()
    assert list(history["step"]) == list(range(STEPS + 1))
    assert history["loss"].isna().sum() == 1  # step 0 has a validation loss only


@pytest.fixture(scope="module")
def half_way(study: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its second epoch."""
    case = Case(study, tmp_path_factory.mktemp("half"), operation=HALF)  # type: ignore[arg-type]
    for _ in range(2):
        assert case.start(max_epochs_per_run=1).wait() == 75, case.text()
    assert case.steps()[-1] == 8
    return case.place


def _operations(half_way: Path, study: object, place: Path) -> int:
    shutil.copytree(half_way, place)
    case = Case(study, place, operation=HALF)  # type: ignore[arg-type]
    assert case.start(fault=Fault("count")).wait() == 0, case.text()
    return len((place / "log.operations").read_text().splitlines())


def test_a_kill_at_every_file_operation_of_saving_pruning_and_cleaning(
    half_way: Path, study: object, undisturbed: str, tmp_path: Path
) -> None:
    total = _operations(half_way, study, tmp_path / "count")
    assert total > 40  # two saves of five files each, renames, removals
    for first in range(1, total + 1, 4):
        cases = {}
        for number in range(first, min(first + 4, total + 1)):
            shutil.copytree(half_way, tmp_path / str(number))
            cases[number] = Case(study, tmp_path / str(number), operation=HALF)  # type: ignore[arg-type]
        killed = {number: case.start(fault=Fault("kill", number)) for number, case in cases.items()}
        assert [start.wait() for start in killed.values()] == [-signal.SIGKILL] * len(cases)
        again = {number: case.start() for number, case in cases.items()}
        for number, start in again.items():
            assert start.wait() == 0, (number, start.text())
            assert weights(cases[number].place) == undisturbed, number
            assert not cases[number].events("damaged"), number  # what a kill leaves never looks like a checkpoint
            shutil.rmtree(cases[number].place)


def test_a_kill_during_validation_validates_again(case: Case, undisturbed: str) -> None:
    case.operation = {"save_every_steps": 2}
    start = case.start(fault=Fault("kill", 1, where=("validation/tokens.bin",)))
    assert start.wait() in (0, -signal.SIGKILL)
    assert case.start().wait() == 0, case.text()
    assert weights(case.place) == undisturbed
