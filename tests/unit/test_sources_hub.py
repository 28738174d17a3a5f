"""Fetching from a hub: the real client against a small hub on localhost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import errors as hub_errors
from isotone.hub.network import is_transient
from isotone.hub.retries import pauses, retry
from isotone.models import save_model
from safetensors.torch import load_file

from tests.unit.fake_hub import COMMIT, hub
from tests.unit.models_zoo import tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "model"
    save_model(tiny("gpt_neox"), tiny_tokenizer(), folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle that must not be downloaded")
    return folder


def fetch(root, home, url, **settings):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    offline, revisions = settings.pop("offline", "0"), settings.pop("revisions", [])
    job = {"model": {"source": "hub", "name": "tiny/model", "revision": "v1", **settings}, "revisions": revisions}
    return subprocess.run(
        [
            sys.executable,
            str(root / "scripts/fetch.py"),
            "--settings",
            json.dumps(job),
            "--marker",
            str(home / "fetch.json"),
        ],
        env=environment
        | {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": offline, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_fetch_takes_safetensors_only_and_then_works_offline(root, model, tmp_path):
    with hub(model) as server:
        done = fetch(root, tmp_path, server.url)
        assert done.returncode == 0, done.stderr
        assert "model.safetensors" in server.served and "pytorch_model.bin" not in server.served
        url = server.url
    marker = json.loads((tmp_path / "fetch.json").read_text())
    assert marker["result"]["model"] == {"name": "tiny/model", "revision": "v1", "commit": COMMIT}
    again = fetch(root, tmp_path, url, offline="1")
    assert again.returncode == 0, again.stderr


def test_earlier_revisions_are_fetched_and_brought_into_the_form_of_the_base(root, model, tmp_path):
    with hub(model) as server:
        server.commits |= {"step1": "1" * 40, "step2": "2" * 40}
        done = fetch(root, tmp_path, server.url, revisions=["step1", "step2"])
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "fetch.json").read_text())["result"]
    assert found["model"]["commit"] == COMMIT and found["revisions"] == {"step1": "1" * 40, "step2": "2" * 40}
    job = {"source": "hub", "name": "tiny/model", "revision": "step2"}
    command = [sys.executable, str(root / "scripts/revision.py"), "--settings", json.dumps(job), "--base", str(model)]
    around = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    around |= {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    made = subprocess.run([*command, "--model", str(tmp_path / "made")], env=around, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert load_file(tmp_path / "made/model.safetensors").keys() == load_file(model / "model.safetensors").keys()
    assert (tmp_path / "made/tokenizer.json").is_file()
    other = tmp_path / "other"  # a base with another vocabulary: not this model's pretraining
    shutil.copytree(model, other)
    config = json.loads((other / "config.json").read_text()) | {"vocab_size": 999}
    (other / "config.json").write_text(json.dumps(config))
    command[command.index(str(model))] = str(other)
    made = subprocess.run([*command, "--model", str(tmp_path / "never")], env=around, capture_output=True, text=True)
    assert made.returncode == 78 and "whose vocab_size is" in made.stderr and not (tmp_path / "never").exists()


def test_two_names_of_one_commit_are_one_model(root, model, tmp_path):
    with hub(model) as server:
        server.commits |= {"step1": "1" * 40, "main": COMMIT}
        done = fetch(root, tmp_path, server.url, revisions=["step1", "main"])
    assert done.returncode == 78 and '"main", which is the same commit as v1' in done.stderr


def test_an_empty_cache_offline_says_where_and_what_to_do(root, tmp_path):
    done = fetch(root, tmp_path, "http://127.0.0.1:9", offline="1")
    assert done.returncode == 78
    assert (
        f"HF_HOME={tmp_path}" in done.stderr
        and "--until fetch --configfile" in done.stderr
        and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize(
    ("trouble", "settings", "words"),
    [
        ([(403, "GatedRepo")], {}, "accept its terms"),
        ([], {"revision": "v9"}, "no such revision"),
        ([], {"name": "tiny/absent"}, "nothing of that name"),
    ],
)
def test_refusals_are_one_paragraph_and_are_not_tried_again(root, model, tmp_path, trouble, settings, words):
    with hub(model) as server:
        server.trouble = trouble
        done = fetch(root, tmp_path, server.url, **settings)
    assert done.returncode == 78 and words in done.stderr
    assert "Traceback" not in done.stderr and "again in" not in done.stderr


def test_a_busy_hub_is_asked_again(root, model, tmp_path):
    with hub(model) as server:
        server.trouble = [(503, "")]
        done = fetch(root, tmp_path, server.url)
    assert done.returncode == 0, done.stderr
    assert "again in 5 s" in done.stderr


def test_a_model_with_pickles_only_is_refused_before_any_download(root, model, tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    (served / "config.json").write_text("{}")
    (served / "pytorch_model.bin").write_bytes(b"pickle")
    with hub(served) as server:
        done = fetch(root, tmp_path, server.url)
        assert server.served == []
    assert done.returncode == 78 and "only as pickles" in done.stderr


def test_pauses_grow_from_5_to_300_seconds_over_5_tries():
    assert list(pauses()) == [5, 20, 80, 300]
    slept, tries = [], []

    def fail():
        tries.append(1)
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        retry(fail, "test", is_transient, slept.append)
    assert slept == [5, 20, 80, 300] and len(tries) == 5


def test_success_ends_the_tries():
    answers = iter([ConnectionError("down"), TimeoutError("slow"), None])

    def sometimes():
        if (error := next(answers)) is not None:
            raise error
        return "done"

    slept = []
    assert retry(sometimes, "test", is_transient, slept.append) == "done"
    assert slept == [5, 20]


def test_what_passes_by_itself():
    assert is_transient(ConnectionResetError("reset"))
    assert not is_transient(hub_errors.OfflineModeIsEnabled("offline"))
    assert not is_transient(ValueError("wrong"))
    assert not is_transient(FileNotFoundError("disk"))
