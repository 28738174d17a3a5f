"""Going on under other settings, or beginning anew: never without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from isotone.errors import Unfinished
from isotone.training import engine
from isotone.training.checkpointing.lease import Lease
from isotone.training.run import train

from tests.resume.tiny import Study
from tests.unit.test_training_run import events, go, history, make, restored, study  # noqa: F401


def begun(study: Study, place: Path, settings: dict[str, Any] | None = None) -> Any:  # noqa: F811
    """A run that stands at the end of its first epoch of three."""
    run = make(study, place, settings, max_epochs=1)
    with pytest.raises(Unfinished):
        train(run)
    return run


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"micro_batch_size": 1}, "settings.training.micro_batch_size (2 then, 1 now)"),
        ({"gradient_checkpointing": True}, "settings.training.gradient_checkpointing (False then, True now)"),
        ({"micro_batch": "auto"}, "settings.training.micro_batch ('fixed' then, 'auto' now)"),
        ({"compile": True}, "settings.training.compile (False then, True now)"),
    ],
)
def test_what_changes_only_how_a_step_is_computed_goes_on(
    study: Study,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    words: str,
) -> None:
    """As the message on memory recommends it: from the newest checkpoint, on the same blocks, with other last digits."""
    whole = go(make(study, tmp_path / "whole"))
    old = begun(study, tmp_path)
    run = make(study, tmp_path, {"training": change})
    assert run.folder != old.folder
    capsys.readouterr()
    result = go(run)
    said = capsys.readouterr().err
    assert "goes on from the checkpoints in" in said and words in said
    assert [event["step"] for event in events(run, "resume")] == [4]
    assert not events(run, "start")
    assert result["bitwise"] is False
    assert result["changes"] == [{"step": 4, "settings": [words]}]
    assert (result["steps"], result["updates"], result["tokens"]) == (12, 12, whole["tokens"])
    assert result["final_loss"] == pytest.approx(whole["final_loss"], abs=1e-4)
    assert history(run)["step"].tolist() == list(range(13))
    if change.get("micro_batch") == "auto":
        assert result["micro_batch_size"] == 8
    elif "micro_batch_size" in change:
        assert result["micro_batch_size"] == 1
    assert whole["bitwise"] is True and "changes" not in whole
    assert list(old.folder.glob("checkpoints.g*/step-*"))  # its own settings go on from there too
    assert go(make(study, tmp_path))["weights_sha256"] == whole["weights_sha256"]


def test_a_setting_that_changes_the_result_begins_anew_and_says_so(
    study: Study,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = begun(study, tmp_path)
    run = make(study, tmp_path, {"training": {"learning_rate": 1e-3, "micro_batch_size": 4}})
    capsys.readouterr()
    result = go(run)
    said = capsys.readouterr().err
    assert "starts at step 0" in said
    assert "settings.training.learning_rate (0.003 then, 0.001 now)" in said
    assert f"Step 4 of an earlier start (0.00 GB) stays in {old.folder}" in said
    assert result["bitwise"] is True
    assert [event["step"] for event in events(run, "start")] == [0]


def test_finished_runs_and_runs_of_another_name_leave_nothing_to_take_over(study: Study, tmp_path: Path) -> None:  # noqa: F811
    go(make(study, tmp_path, operation={"keep_state": True}))
    other = make(study, tmp_path, {"training": {"micro_batch_size": 4}})
    assert go(other)["bitwise"] is True
    assert not events(other, "adopted")


def test_out_of_memory_then_the_advice_then_the_end(
    study: Study,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The setting is lowered as the message says: no step is lost, and what was halved counts as changed."""
    real, limit = engine.Engine.train, [2]

    def scarce(self: Any, batch: Any, **more: Any) -> torch.Tensor:
        if len(batch) > limit[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch, **more)

    monkeypatch.setattr(engine.Engine, "train", scarce)
    begun(study, tmp_path, {"training": {"micro_batch_size": 8}})
    limit[0] = 1
    run = make(study, tmp_path, {"training": {"micro_batch_size": 1}})
    result = go(run)
    assert (result["micro_batch_size"], result["steps"], result["updates"]) == (1, 12, 12)
    assert not events(run, "out_of_memory")
    assert [event["step"] for event in events(run, "resume")] == [4]


def test_a_trainer_that_still_works_under_the_old_settings_is_waited_for(study: Study, tmp_path: Path) -> None:  # noqa: F811
    old = begun(study, tmp_path)
    theirs = Lease(old.folder, seconds=3.0, wait=0.0)
    theirs.acquire()
    run = make(study, tmp_path, {"training": {"micro_batch_size": 4}}, {"lock_wait": 0.1})
    with pytest.raises(Unfinished, match="Another trainer holds"):
        train(run)
    theirs.check()
    theirs.release()
    assert [change["step"] for change in go(run)["changes"]] == [4]
