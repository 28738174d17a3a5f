import models_zoo as zoo
import numpy as np
import pytest
import verse_zoo
from isotone import models
from isotone.attacks import outputs
from isotone.attacks.documents import Document, write_manifest
from isotone.attacks.outputs import after_attack, attacked_source, source_of
from isotone.attacks.vocabulary import Vocabulary, pieces_of
from isotone.config.evaluation import GenerateJob, Generation
from isotone.data.blocks import TokenSplit
from isotone.errors import InputOutputError
from isotone.evaluation.generation import Writer
from isotone.evaluation.overlap import SCORES, overlap
from isotone.records import read_json, read_rows, write_rows

EOS = 1
JOB = GenerateJob(Generation(beams=2, max_new_tokens=12))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A model, its pairs as attack documents, and rows that change two tokens of every source but the first."""
    folder = tmp_path_factory.mktemp("after")
    model, split_folder, _ = verse_zoo.write(folder)
    split = TokenSplit.open(split_folder)
    documents, rows = [], []
    for index in range(len(split.documents)):
        source, target = split.pair(index)
        name = str(split.documents["document"].iloc[index])
        ids = np.concatenate([source, target])
        places = np.arange(int(split.documents["source_prefix"].iloc[index]), len(source) - 1)
        documents.append(Document(name, ids, places))
        flips = [
            {"position": int(place), "old": int(ids[place]), "new": int(ids[place]) % 50 + 200} for place in places[:2]
        ]
        rows.append({"document": name, "variant": "greedy", "flips": flips if index else []})
        rows.append({"document": name, "variant": "one_shot", "flips": []})
    tokens = Vocabulary(
        np.arange(2, zoo.VOCABULARY), pieces_of(verse_zoo.tokenizer(), zoo.VOCABULARY), np.zeros(zoo.VOCABULARY, int)
    )
    write_manifest(folder / "shared", documents, [], tokens, {"eos": EOS, "start": 0})
    write_rows(folder / "hotflip.jsonl", "attack/1", rows)
    return folder, model, split, documents, rows[::2]


def run(scene, out, variant="greedy"):
    folder, model = scene[:2]
    paths = [out / name for name in ("a.jsonl", "a.cost.jsonl", "a.json")]
    attacks = folder / "hotflip.jsonl"
    after_attack(JOB, model, folder / "shared", attacks, variant, folder / "test", folder / "test.parquet", *paths)
    return paths


def test_the_attacked_ids_go_in_as_they_are(scene, tmp_path):
    _, model_folder, split, documents, rows = scene
    rows_file, cost, marker = run(scene, tmp_path)
    found = {row["document"]: row for row in read_rows(rows_file, "generation_after/1")}
    assert list(found) == [document.name for document in documents] and len(
        read_rows(cost, "generation_after_cost/1")
    ) == len(found)
    model, tokenizer = models.load_model(model_folder), models.load_tokenizer(model_folder)
    writer = Writer(model, JOB.generation, batch=1)
    for index, (document, attack) in enumerate(zip(documents, rows, strict=True)):
        source = split.pair(index)[0]
        changed = source.copy()
        for flip in attack["flips"]:
            changed[flip["position"]] = flip["new"]
        before, after = (
            tokenizer.decode(writer.write([ids])[0].ids, skip_special_tokens=True).strip() for ids in (source, changed)
        )
        row, reference = (
            found[document.name],
            dict(zip([d.name for d in documents], [t for _, t in verse_zoo.PAIRS], strict=True))[document.name],
        )
        assert (row["clean_output"], row["attacked_output"]) == (before, after) and row["changed"] is (before != after)
        for what, pair in (("clean", (before, reference)), ("attacked", (after, reference)), ("own", (after, before))):
            assert {key: row[f"{what}_{key}"] for key in SCORES} == overlap(*pair)
    first = found[documents[0].name]
    assert not first["changed"] and first["own_rouge1"] == pytest.approx(100), "no flip, no fall"
    assert sum(row["changed"] for row in found.values()) >= 3
    result = read_json(marker)["result"]
    assert result["own_chrf"] == pytest.approx(np.mean([row["own_chrf"] for row in found.values()]))
    assert result["changed"] == np.mean([row["changed"] for row in found.values()])


def test_the_form_is_the_one_asked_for(scene, tmp_path):
    rows = read_rows(run(scene, tmp_path, "one_shot")[0], "generation_after/1")
    assert not any(row["changed"] for row in rows)
    with pytest.raises(InputOutputError, match="has rows of form published for 0 documents"):
        run(scene, tmp_path, "published")


def test_a_killed_job_goes_on(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "CHUNK", 2)
    whole = run(scene, tmp_path / "whole")[0].read_bytes()
    real, calls = outputs.row_of, []

    def dies(*arguments):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(arguments[0])
        return real(*arguments)

    monkeypatch.setattr(outputs, "row_of", dies)
    with pytest.raises(KeyboardInterrupt):
        run(scene, tmp_path / "killed")
    calls.clear()
    monkeypatch.setattr(outputs, "row_of", lambda *arguments: calls.append(arguments[0]) or real(*arguments))
    assert run(scene, tmp_path / "killed")[0].read_bytes() == whole
    assert len(calls) == len(verse_zoo.PAIRS) - 2


def test_rows_of_another_text_are_refused():
    document = Document("a", np.array([5, 6, 7, EOS, 8, 9, EOS]), np.array([1]))
    assert source_of(document.ids, EOS).tolist() == [5, 6, 7, EOS]
    flip = {"position": 1, "old": 6, "new": 9}
    assert attacked_source(document, {"flips": [flip]}, EOS).tolist() == [5, 9, 7, EOS]
    assert document.ids[1] == 6, "the document stays"
    for wrong in ({**flip, "old": 5}, {**flip, "position": 3, "old": EOS}, {**flip, "position": 4, "old": 8}):
        with pytest.raises(InputOutputError, match='"a" changes a token that does not stand in its source'):
            attacked_source(document, {"flips": [wrong]}, EOS)
