"""Memory that runs out and losses that are no numbers: every process decides alike, the order stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.resume.elastic import run_together
from tests.resume.runs import Case, weights
from tests.resume.tiny import CONSTRAINED, RARE, Study


def poison(study: Study, token: int) -> None:
    """Make the embedding of one token NaN: whatever reads it has no loss."""
    from safetensors.torch import load_file, save_file

    path = study.start / "model.safetensors"
    tensors = load_file(path)
    tensors["gpt_neox.embed_in.weight"][token] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with one token, in one training block, that gives NaN."""
    study = Study.make(tmp_path_factory.mktemp("poisoned"), model={"constraint": CONSTRAINED}, rare=7)
    poison(study, RARE)
    return study


def test_nan_on_one_rank_is_skipped_by_all_and_the_order_stays(poisoned: Study, tmp_path: Path) -> None:
    found = {}
    for size in (1, 2, 4):
        case = Case(poisoned, tmp_path / str(size), {"training": {"epochs": 2}})
        assert run_together(case, size) == [0] * size, case.text()
        skipped = [event["step"] for event in case.events("skip")]
        assert len(skipped) == 2  # once per epoch
        assert case.result()["updates"] == case.result()["steps"] - 2
        history = case.history().dropna(subset=["loss"])
        assert set(history["step"]).isdisjoint({step + 1 for step in skipped})
        found[size] = (skipped, weights(case.place), case.result()["final_loss"])
    assert found[1] == found[2] == found[4]


def test_what_cannot_be_trained_ends_with_70_and_stays_refused(tmp_path: Path) -> None:
    study = Study.make(tmp_path / "study", model={"constraint": CONSTRAINED}, common=16)
    poison(study, 63)
    faults = {"skips": 2, "roll_backs": 1, "roll_back_every": 2}
    case = Case(study, tmp_path / "run", {"training": {"faults": faults}})
    start = case.start()
    assert start.wait() == 70, start.text()
    assert "After 1 roll-backs" in start.text()
    again = case.start(log="again.txt")
    assert again.wait() == 70
    assert "An earlier start" in again.text()
    assert (
        case.start(settings={"training": {"faults": {"roll_backs": 2}}}, log="other.txt").wait() == 70
    )  # other settings try


def test_out_of_memory_halves_the_leaf_and_keeps_the_order(tmp_path: Path) -> None:
    """Activations of 64 MiB and more: what does not fit is one of them, and all else still finds room."""
    study = Study.make(tmp_path / "study", model={"constraint": CONSTRAINED, "intermediate_size": 2048})
    wide = {"training": {"global_batch": 512, "micro_batch_size": 512, "epochs": 32, "validation_blocks": 2}}
    case = Case(study, tmp_path / "limited", wide)
    start = case.start(limits={"extra_memory": 350 << 20})
    assert start.wait() == 0, start.text()
    halvings = case.events("out_of_memory")
    assert halvings
    result = case.result()
    assert result["micro_batch_size"] == 512 >> len(halvings)
    assert result["bitwise"] is False
    free = Case(study, tmp_path / "free", wide)
    assert free.start().wait() == 0
    assert free.result()["bitwise"] is True
    limited, unlimited = case.history(), free.history()
    assert list(limited["step"]) == list(unlimited["step"])
    assert (limited["loss"] - unlimited["loss"]).abs().max() < 1e-5
