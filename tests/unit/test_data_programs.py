"""corpus.py, setup.py and tokenize_split.py as the workflow calls them, on a few chapters."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from isotone.data.blocks import Blocks, TokenSplit
from isotone.models import load_model, load_tokenizer
from isotone.records import folder_digest

SMALL = {"architecture": {"hidden": 32, "layers": 2, "heads": 2, "intermediate": 48, "context": 64, "vocabulary": 400}}


def program(root, name, *arguments, settings):
    command = [sys.executable, str(root / "scripts" / name), "--settings", json.dumps(settings), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def corpus(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    done = program(
        root,
        "corpus.py",
        "--documents",
        folder / "documents",
        "--marker",
        folder / "corpus.json",
        settings={"documents": 120},
    )
    assert done.returncode == 0, done.stderr
    return folder


def setup(root, corpus, place, **settings):
    arguments = ["--documents", corpus / "documents", "--model", place / "init", "--marker", place / "setup.json"]
    return program(root, "setup.py", *arguments, settings={"model": SMALL, "length": 64, **settings})


def test_corpus_setup_and_tokens_fit_together_and_repeat(root, corpus, tmp_path):
    for name in ("one", "two"):
        done = setup(root, corpus, tmp_path / name)
        assert done.returncode == 0, done.stderr
    markers = [json.loads((tmp_path / name / "setup.json").read_text()) for name in ("one", "two")]
    assert markers[0]["result"] == markers[1]["result"] and markers[0]["outputs"] == markers[1]["outputs"]
    assert folder_digest(tmp_path / "one" / "init") == folder_digest(tmp_path / "two" / "init")
    result = markers[0]["result"]
    assert result["causality"]["positions"] == [1, 32, 63] and result["causality"]["worst_leak"] == 0
    assert result["forward"]["nats_per_token"] == pytest.approx(result["forward"]["uniform"], abs=0.1)
    model = load_model(tmp_path / "one" / "init")
    assert result["parameters"]["total"] == model.num_parameters()
    done = program(
        root, "tokenize_split.py", "--tokenizer", tmp_path / "one" / "init", "--documents", corpus / "documents/test.parquet",
        "--out", tmp_path / "test", settings={"document_start": "bos"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    split = TokenSplit.open(tmp_path / "test")
    assert len(Blocks(split, 64)) > 10 and split.tokens.max() < model.config.vocab_size
    text = load_tokenizer(tmp_path / "one" / "init").decode(split.text_ids(0))
    assert text.startswith(("And", "Now", "The", "Then", "These", "But", "In", "For")) or text[0].isupper()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"length": 65}, "context is 64"),
        ({"model": {"source": "local", "path": "absent"}}, "is no folder"),
        ({"model": {"sauce": "scratch"}}, 'unknown key "sauce"'),
        ({"model": {"architecture": {"vocabulary": 100_000}}}, "yields only"),
    ],
)
def test_bad_input_is_one_paragraph_and_leaves_nothing(root, corpus, tmp_path, wrong, words):
    done = setup(root, corpus, tmp_path, **wrong)
    assert done.returncode == 78 and words in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_refused_before_the_model_is_written(root, corpus, tmp_path, monkeypatch):
    code = (
        "import sys, shutil\nfrom isotone import environment, errors\n"
        "environment.head_room = lambda folder: {'disk_free': 1000, 'memory_total': 1 << 40}\n"
        "import setup\nerrors.run(setup.main)"
    )
    arguments = ["--settings", json.dumps({"model": SMALL, "length": 64}), "--documents", str(corpus / "documents")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--model", str(tmp_path / "init"), "--marker", str(tmp_path / "m.json")],
        capture_output=True, text=True, cwd=root / "scripts",
    )  # fmt: skip
    assert done.returncode == 78 and "GB free" in done.stderr and not (tmp_path / "init").exists()
