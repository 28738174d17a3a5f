"""Bad input: one paragraph, exit code 78, before any job; nothing already made is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import copy_checkout, run

CASES = {
    "unknown key": ({"trainig": {}}, 'unknown key "trainig". Did you mean "training"?'),
    "wrong type": ({"training": {"epochs": "many"}}, "training.epochs is 'many'"),
    "unknown scope": ({"arms": {"mlp_both": {"constraint": {"scope": "mlp_al", "init": "abs"}}}}, "mlp_al"),
    "scope of another family": (
        {"arms": {"mlp_both": {"constraint": {"scope": "gated_all", "init": "abs"}}}},
        "matches nothing",
    ),
    "layer beyond the model": (
        {"arms": {"mlp_both": {"constraint": {"scope": "mlp_both", "init": "abs", "layers": [0, 9]}}}},
        "constraint.layers names 9",
    ),
    "unknown arm": ({"report": {"baseline": "basline"}}, 'Did you mean "baseline"?'),
    "repeated seeds": ({"seeds": [1, 1]}, "repeats a seed"),
    "unknown attack": ({"attacks": {"run": ["hotflop"]}}, 'Did you mean "hotflip"?'),
    "too long": ({"training": {"length": 4096}}, "context is 64 tokens"),
    "attack window too long": ({"attacks": {"shared": {"window": 64}}}, "context is 64 tokens"),
    "split without documents": ({"data": {"splits": {"test": 0}}}, "data.splits.test is 0"),
    "missing text": ({"data": {"source": "local", "path": "no/such/folder"}}, "does not exist"),
    "missing model folder": ({"model": {"source": "local", "path": "no/such/model"}}, "no config.json there"),
    "hub without revision": ({"model": {"source": "hub", "name": "a/b"}}, "model.revision"),
    "micro_batch_size": ({"training": {"global_batch": 10, "micro_batch_size": 4}}, "does not divide"),
    "study outside results": ({"study": "../elsewhere"}, "does not match"),
    "bad arm name": ({"arms": {"../x": {}}}, "small letters"),
}


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(root, tmp_path_factory.mktemp("bad") / "checkout")


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_configuration_is_one_paragraph_and_78(checkout: Path, name: str, tmp_path: Path) -> None:
    overlay, words = CASES[name]
    path = tmp_path / "overlay.yaml"
    path.write_text(yaml.safe_dump(overlay))
    done = run(checkout, "-m", "snakemake", "--cores", "1", "--configfile", "config/smoke.yaml", str(path))
    assert done.returncode == 78, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr and str(path) in done.stderr
    assert not (checkout / "results").exists()


def test_a_target_behind_configfile_is_said_to_be_one(checkout: Path) -> None:
    target = checkout / "results/smoke/setup.json"
    target.parent.mkdir(parents=True)
    target.write_text("{}")
    try:
        done = run(checkout, "-m", "snakemake", "-n", "--configfile", "config/smoke.yaml", "results/smoke/setup.json")
    finally:
        shutil.rmtree(checkout / "results")
    assert done.returncode == 78 and "Put -- in front of a target" in done.stderr


def test_an_unwritable_results_folder_is_named(checkout: Path) -> None:
    (checkout / "results").write_text("a file stands where the folder should be")
    try:
        done = run(checkout, "-m", "snakemake", "--cores", "1", "--configfile", "config/smoke.yaml")
    finally:
        (checkout / "results").unlink()
    assert done.returncode == 78 and "cannot be written" in done.stderr


def test_a_wrong_configuration_loses_nothing(finished: Path, tmp_path: Path) -> None:
    before = (finished / "results/smoke/final_results.json").read_bytes()
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("seeds: [7, 7]\n")
    done = run(finished, "scripts/run_study.py", "config/smoke.yaml", str(overlay))
    assert done.returncode != 0
    assert (finished / "results/smoke/final_results.json").read_bytes() == before
