"""Datasets: `datasets` itself reads a local folder that is laid out like one of the hub."""

from __future__ import annotations

import json

import pytest
from isotone.config.data import Data, Source
from isotone.data.document import Troubles
from isotone.data.readers import dataset as hub
from isotone.data.readers.sources import fetch_data, make_corpus
from isotone.errors import ConfigurationError
from isotone.schema import parse

SETTINGS = {"source": "hub", "name": "owner/texts", "revision": "v1"}


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    folder = tmp_path / "owner" / "texts"
    folder.mkdir(parents=True)
    for part, count in (("train", 400), ("test", 30)):
        rows = [{"text": f"{part} text number {index}", "id": index} for index in range(count)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def documents(source, part=None, limit=0):
    return list(hub.open_dataset(source, Troubles(), part, limit))


def test_a_bounded_number_of_rows_is_streamed_once_and_read_offline(dataset, monkeypatch):
    source = Source(**SETTINGS)
    first = documents(source, limit=50)
    assert [d.text for d in first] == [f"train text number {index}" for index in range(50)]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert documents(source, limit=50) == first
    with pytest.raises(ConfigurationError, match="not in the cache"):
        documents(source, limit=51)


def test_a_broken_stream_goes_on_where_it_ended(dataset, monkeypatch):
    real, starts = hub._stream, []

    def breaks(source, split, skip):
        starts.append(skip)
        for number, row in enumerate(real(source, split, skip)):
            if len(starts) == 1 and number == 130:
                raise ConnectionError("cable pulled")
            yield row

    monkeypatch.setattr(hub, "_stream", breaks)
    monkeypatch.setattr(hub, "GROUP", 100)
    monkeypatch.setattr("isotone.hub.retries.FIRST", 0.0)
    assert [d.text for d in documents(Source(**SETTINGS))] == [f"train text number {index}" for index in range(400)]
    assert starts == [0, 130]


@pytest.mark.parametrize(
    ("wrong", "words"), [({"column": "body"}, "has the columns: id, text"), ({"split": "dev"}, "dev")]
)
def test_a_wrong_column_or_split_is_one_paragraph_and_leaves_nothing(dataset, wrong, words):
    with pytest.raises(ConfigurationError, match=words):
        documents(Source(**SETTINGS, **wrong))
    assert not list((dataset / "cache").rglob("*.parquet*"))


def test_held_out_parts_take_the_first_that_exists(dataset, tmp_path):
    data = parse(Data, {**SETTINGS, "documents": 300, "splits": {"test": ["validation", "test"]}})
    assert fetch_data(data)["revision"] == "v1"
    out = tmp_path / "out"
    out.mkdir()
    result = make_corpus(data, out)
    assert result["splits"]["test"]["part"] == "test" and result["splits"]["test"]["documents"] == 30
    assert sum(facts["documents"] for split, facts in result["splits"].items() if split != "test") == pytest.approx(
        285, abs=15
    )


def test_two_lists_that_end_at_one_part_each_get_their_documents(dataset, tmp_path):
    """An alternative may lack a part that the first source has: then both lists read what there is."""
    rows = [{"text": f"held-out text number {index}", "id": index} for index in range(400)]
    (dataset / "owner/texts/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = {"test": ["validation", "test"], "attack_test": ["test", "validation"]}
    data = parse(Data, {**SETTINGS, "documents": 300, "held_out_documents": 120, "splits": splits})
    fetch_data(data)
    out = tmp_path / "out"
    out.mkdir()
    found = make_corpus(data, out)["splits"]
    assert found["test"]["documents"] == found["attack_test"]["documents"] == 120


def test_fetching_a_local_source_does_nothing():
    assert fetch_data(Data()) == {}
