"""What watches a run: a watchdog that sleeps while a slow disk or a slow certificate works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from isotone.training import build, finish, stepper
from isotone.training.checkpointing.saver import Saver
from isotone.training.checkpointing.store import Store
from isotone.training.engine import Engine
from isotone.training.loop import Loop
from isotone.training.run import train
from isotone.training.supervision.watchdog import Watchdog

from tests.resume.tiny import Study
from tests.unit.test_training_run import go, make, poisoned, restored, study, validate_to  # noqa: F401


class Slow:
    """Makes places of a run slow: hours pass there, and it is noted whether the watchdog would end the process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Catch the watchdog of the run."""
        self.patch, self.hung, self.reached = monkeypatch, set(), set()
        self.dogs: list[Watchdog] = []

        def caught(*args: Any, **options: Any) -> Watchdog:
            self.dogs.append(Watchdog(*args, **options | {"medians": 0.0}))  # no thread: its judgement is asked for
            return self.dogs[-1]

        monkeypatch.setattr(build, "Watchdog", caught)

    def make(self, owner: Any, name: str) -> None:
        """One function takes hours."""
        real: Callable[..., Any] = getattr(owner, name)

        def slow(*args: Any, **options: Any) -> Any:
            dog = self.dogs[-1]
            dog._last -= 1e6
            self.reached.add(name)
            if dog.silence() > dog.allowance():
                self.hung.add(name)
            dog.on_beat()
            return real(*args, **options)

        self.patch.setattr(owner, name, slow)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(monkeypatch)


def test_a_slow_disk_or_certificate_is_no_hang(
    study: Study,  # noqa: F811
    tmp_path: Path,
    slow: Slow,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever was ended there was ended there again by every start: 75 for ever."""
    validate_to(monkeypatch, {0: 9.0, 4: 3.0, 8: 4.0, 12: 5.0})
    places = [
        (stepper, "save_model"),
        (finish, "load_model"),
        (finish, "certificate_of"),
        (finish, "weights_digest"),
        (finish, "seal"),
        (Saver, "_stage"),
        (Saver, "_write"),
        (Saver, "join"),
        (Store, "newest"),
        (Store, "read"),
        (Store, "verify"),
    ]
    for owner, name in places:
        slow.make(owner, name)
    result = go(
        make(study, tmp_path, {"training": {"milestones": [0.5]}}, {"background_save": False, "save_every_steps": 3})
    )
    assert result["best"]["step"] == 4
    assert slow.reached == {name for _, name in places}
    assert slow.hung == set()


def test_going_back_is_no_hang_and_a_step_is(study: Study, tmp_path: Path, slow: Slow) -> None:  # noqa: F811
    bad = poisoned(study, tmp_path / "bad", [2, 3])
    slow.make(Loop, "resume")
    slow.make(Engine, "train")  # the control: this is what the watchdog is for
    faults = {"skips": 2, "roll_back_every": 2, "spike_factor": 0.0}
    result = go(make(bad, tmp_path / "run", {"training": {"epochs": 1, "faults": faults}}))
    assert result["passed_over"]
    assert slow.reached == {"resume", "train"}
    assert slow.hung == {"train"}


def test_the_others_wait_awake_for_nobody(study: Study, tmp_path: Path, slow: Slow) -> None:  # noqa: F811
    """A process without a disk meets the first one behind each save, and its watchdog sleeps until then."""
    run, meetings = make(study, tmp_path), []
    real = Loop._save

    def save(self: Loop) -> None:
        share = self.world.share

        def meet(value: Any) -> Any:
            dog = slow.dogs[-1]
            meetings.append(dog._working > 0)
            return share(value)

        slow.patch.setattr(self.world, "share", meet)
        real(self)
        slow.patch.setattr(self.world, "share", share)

    slow.patch.setattr(Loop, "_save", save)
    train(run)
    assert meetings == [True] * 4  # the start and three epochs
