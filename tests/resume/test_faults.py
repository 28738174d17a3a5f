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


def test_after_several_skips_it_rolls_back_and_passes_over_the_blocks(tmp_path: Path) -> None:
    study = Study.make(tmp_path / "study", model={"constraint": CONSTRAINED})
    results = []
    for name, operation in (("plain", {}), ("saves", {"save_every_steps": 1, "keep": 8})):
        case = Case(
            study, tmp_path / name, {"training": {"faults": {"spike_factor": 0.0, "skips": 2, "roll_back_every": 3}}}
        )
        case.operation = operation
        case.study = spiked(study, tmp_path / f"spiked-{name}")
        assert case.start().wait() == 0, case.text()
        ledger = case.result()["passed_over"]
        assert len(ledger) == 1
        assert ledger[0]["from"] % 3 == 0
        back = case.events("roll_back")[0]
        assert back["to"] == ledger[0]["from"]
        steps = list(case.history()["step"])
        assert len(steps) == len(set(steps))
        assert not set(range(ledger[0]["from"] + 1, ledger[0]["to"])) & set(
            case.history().dropna(subset=["loss"])["step"]
        )
        results.append(weights(case.place))
    assert results[0] == results[1]


def spiked(study: Study, folder: Path) -> Study:
    """The same study with a poisoned token in the blocks of two consecutive steps."""
    import shutil

    import numpy as np
    from isotone.data.order import samples

    from tests.resume.tiny import LENGTH

    shutil.copytree(study.folder, folder)
    made = Study(folder)
    poison(made, RARE)
    tokens = np.fromfile(made.train / "tokens.bin", np.uint16)
    for step in (4, 5):  # the second epoch begins with step 4: steps 0 and 1 would see other blocks
        tokens[samples(3, 32, step * 8, 8)[0] * LENGTH + 5] = RARE
    first_epoch = [int(np.where(samples(3, 32, 0, 32) == samples(3, 32, step * 8, 8)[0])[0][0]) // 8 for step in (4, 5)]
    made.first_epoch = first_epoch  # type: ignore[attr-defined]
    tokens.tofile(made.train / "tokens.bin")
    return made


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


def test_out_of_memory_halves_the_leaf_and_keeps_the_order(case: Case) -> None:
    wide = {"training": {"global_batch": 512, "leaf": 512, "epochs": 32, "validation_blocks": 2}}
    start = case.start(settings=wide, limits={"extra_memory": 150 << 20})
    assert start.wait() == 0, start.text()
    halvings = case.events("out_of_memory")
    assert halvings
    result = case.result()
    assert result["leaf"] == 512 >> len(halvings)
    assert result["bitwise"] is False
    free = Case(case.study, case.place / "free", case.settings)
    assert free.start(settings=wide).wait() == 0
    assert free.result()["bitwise"] is True
    limited, unlimited = case.history(), free.history()
    assert list(limited["step"]) == list(unlimited["step"])
    assert (limited["loss"] - unlimited["loss"]).abs().max() < 1e-5
