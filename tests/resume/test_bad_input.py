"""One clear paragraph each, the exit code of the table, and nothing already made is lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.resume.runs import Case, weights
from tests.resume.tiny import ROOT, write_split


def half(case: Case) -> None:
    assert case.start(max_epochs_per_run=1, operation={"save_every_steps": 1}).wait() == 75, case.text()


def forge(case: Case, **changes: object) -> None:
    """Put the checkpoints of this run where another run looks for its own."""
    donor = case.state
    other = Case(case.study, case.place, case.settings | {"seed": 4})
    other.study = case.study
    assert other.start(max_epochs_per_run=1).wait() == 75
    (target,) = (path for path in (case.place / "state").iterdir() if path.is_dir() and path != donor)
    shutil.rmtree(max(target.glob("checkpoints.g*")))
    shutil.copytree(max(donor.glob("checkpoints.g*")), target / "checkpoints.g000009")


def one_paragraph(text: str) -> str:
    assert "Traceback" not in text, text
    return text


def test_other_settings_are_another_run_and_never_resume_this_one(case: Case) -> None:
    half(case)
    forge(case)
    start = case.start(settings={"seed": 4}, log="forged.txt")
    assert start.wait() == 78
    assert "settings.seed (3 then, 4 now)" in one_paragraph(start.text())


def test_other_data_and_another_tokenizer_are_named(case: Case, tmp_path: Path) -> None:
    half(case)
    for path in case.checkpoints.glob("step-*"):
        progress = json.loads((path / "progress.json").read_text())
        progress["identity"] |= {"train": "something else", "tokenizer": "of another"}
        data = json.dumps(progress).encode()
        (path / "progress.json").write_bytes(data)
        manifest = json.loads((path / "manifest.json").read_text())
        import hashlib

        manifest["files"]["progress.json"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (path / "manifest.json").write_text(json.dumps(manifest))
    start = case.start(log="data.txt")
    assert start.wait() == 78
    text = one_paragraph(start.text())
    assert "the training data" in text
    assert "the tokenizer" in text
    again = case.start(log="again.txt")
    assert again.wait() == 78  # remembered
    assert "nothing was tried again" in again.text().replace("\n", " ")


def test_a_refused_start_ends_within_a_second_and_never_imports_torch(case: Case) -> None:
    start = case.start(operation={"watchdog": 0}, settings={"training": {"length": 4000}})
    assert start.wait() == 78
    assert "too few for one block" in one_paragraph(start.text())
    words = case.study.arguments(case.place, case.settings | {"training": {"length": 4000}}, {"watchdog": 0})
    command = [sys.executable, "-X", "importtime", str(ROOT / "scripts/train.py"), *words, "--until-done"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 78
    assert after.ru_utime - before.ru_utime < 1.0  # seconds of the processor: the machine may be busy with other things
    assert "An earlier start" in done.stderr
    assert " torch" not in done.stderr
    assert "transformers" not in done.stderr


def test_a_damaged_newest_checkpoint_falls_back_and_says_so(case: Case, undisturbed: str) -> None:
    half(case)
    newest = case.steps()[-1]
    path = case.checkpoints / f"step-{newest:09d}" / "exp_avg.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    start = case.start(log="again.txt")
    assert start.wait() == 0
    assert "damaged" in start.text()
    assert case.events("resume")[-1]["step"] < newest
    assert weights(case.place) == undisturbed


def test_all_damaged_is_74_says_what_to_do_and_deletes_nothing(case: Case, undisturbed: str) -> None:
    half(case)
    steps = case.steps()
    for step in steps:
        os.truncate(case.checkpoints / f"step-{step:09d}" / "weights.safetensors", 1000)
    for attempt in ("one", "two"):
        start = case.start(log=f"{attempt}.txt")
        assert start.wait() == 74
        assert "delete the damaged-* folders" in one_paragraph(start.text())
    kept = list(case.checkpoints.glob("damaged-*"))
    assert len(kept) == len(steps)
    assert all(len(list(path.iterdir())) == 5 for path in kept)
    for path in kept:
        shutil.rmtree(path)
    assert case.start().wait() == 0
    assert weights(case.place) == undisturbed


def test_a_state_folder_that_cannot_be_written(case: Case, undisturbed: str) -> None:
    half(case)
    os.chmod(case.state, 0o555)
    start = case.start(limits={"powerless": 1}, log="again.txt")
    assert start.wait() == 74, start.text()
    assert "ISOTONE_STATE" in one_paragraph(start.text())
    os.chmod(case.state, 0o755)
    os.chmod(case.checkpoints, 0o555)
    start = case.start(limits={"powerless": 1}, log="third.txt")
    assert start.wait() == 74, start.text()
    os.chmod(case.checkpoints, 0o755)
    assert case.start().wait() == 0
    assert weights(case.place) == undisturbed


def test_a_leaf_that_does_not_divide_the_global_batch(case: Case) -> None:
    start = case.start(settings={"training": {"micro_batch_size": 3}})
    assert start.wait() == 78
    assert "training.global_batch is 8, which training.micro_batch_size = 3 does not divide" in one_paragraph(
        start.text()
    )


@pytest.mark.parametrize(
    ("broken", "words"),
    [("start", "no *.safetensors"), ("train", "data.json is missing"), ("bytes", "promises")],
)
def test_inputs_that_are_not_whole(case: Case, tmp_path: Path, broken: str, words: str) -> None:
    empty = tmp_path / "empty"
    write_split(tmp_path / "cut", 20, 1)
    os.truncate(tmp_path / "cut" / "tokens.bin", 100)
    empty.mkdir()
    places = {"start": {"start": empty}, "train": {"train": empty}, "bytes": {"train": tmp_path / "cut"}}
    start = case.start(**places[broken])
    assert start.wait() in (74, 78)
    assert words in one_paragraph(start.text())


def test_settings_that_are_no_json_or_have_unknown_keys(case: Case) -> None:
    start = case.start(settings={"training": {"lerning_rate": 1}})
    assert start.wait() == 78
    assert 'Did you mean "learning_rate"' in start.text()
