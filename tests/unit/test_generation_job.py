import subprocess
import sys
from pathlib import Path

import pytest
import verse_zoo
from isotone import models
from isotone.config.evaluation import GenerateJob, Generation
from isotone.data.blocks import TokenSplit
from isotone.errors import ConfigurationError
from isotone.evaluation import generation_job
from isotone.evaluation.generation import Writer
from isotone.evaluation.generation_job import generate
from isotone.evaluation.overlap import SCORES, lead, overlap
from isotone.records import canonical_json, read_json, read_rows
from isotone.schema import as_mapping, parse

SETTINGS = {"beams": 2, "max_new_tokens": 12, "lead": 1}
JOB = GenerateJob(Generation(**SETTINGS))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return verse_zoo.write(tmp_path_factory.mktemp("pairs"))


def run(study, folder, job=JOB):
    rows, cost, marker = (folder / name for name in ("g.jsonl", "g.cost.jsonl", "g.json"))
    generate(job, *study, rows, cost, marker)
    return rows, cost, marker


def test_a_row_per_document_and_system(study, tmp_path):
    rows, cost, marker = run(study, tmp_path)
    found = read_rows(rows, "generation/1")
    names = [f"verse {index}" for index in range(len(verse_zoo.PAIRS))]
    assert {(row["system"], row["document"]) for row in found} == {
        (s, n) for s in generation_job.SYSTEMS for n in names
    }
    assert len(found) == 3 * len(names) and len(read_rows(cost, "generation_cost/1")) == len(names)
    by = {(row["system"], row["document"]): row for row in found}
    model, tokenizer = models.load_model(study[0]), models.load_tokenizer(study[0])
    split, writer = TokenSplit.open(study[1]), Writer(model, JOB.generation, batch=1)
    order = [str(name) for name in split.documents["document"]]
    for name, (source, reference) in zip(names, verse_zoo.PAIRS, strict=True):
        written = writer.write([split.pair(order.index(name))[0]])[0]
        row = by["model", name]
        assert (
            row["ids"] == written.ids.tolist() and row["capped"] is written.capped and row["tokens"] == len(written.ids)
        )
        assert row["output"] == tokenizer.decode(written.ids, skip_special_tokens=True).strip()
        for system, output in (("model", row["output"]), ("copy", source), ("lead", lead(source, 1))):
            expected = overlap(output, reference)
            assert {key: by[system, name][key] for key in SCORES} == expected
            assert (by[system, name]["words"], by[system, name]["reference_words"]) == (
                len(output.split()),
                len(reference.split()),
            )
    result = read_json(marker)["result"]
    for system in generation_job.SYSTEMS:
        for key in SCORES:
            mean = sum(by[system, name][key] for name in names) / len(names)
            assert result[system][key] == pytest.approx(mean, abs=1e-9)
    words = [(by["copy", name]["words"], by["copy", name]["reference_words"]) for name in names]
    assert result["copy"]["length_ratio"] == sum(own for own, _ in words) / sum(other for _, other in words)
    assert result["model"]["capped"] == sum(by["model", name]["capped"] for name in names) / len(names)
    assert result["copy"]["rouge1"] > result["model"]["rouge1"], "a random model writes nothing of the reference"


def test_the_program_goes_on_where_a_killed_one_stood(study, tmp_path, monkeypatch):
    monkeypatch.setattr(generation_job, "CHUNK", 2)
    whole = run(study, tmp_path / "whole")[0].read_bytes()
    written, first = [], generation_job.rows_of

    def dies(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(arguments[2])
        return first(*arguments)

    monkeypatch.setattr(generation_job, "rows_of", dies)
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "killed")
    assert not (tmp_path / "killed/g.jsonl").exists() and len(written) == 2
    rest = []
    monkeypatch.setattr(generation_job, "rows_of", lambda *arguments: rest.append(arguments[2]) or first(*arguments))
    assert run(study, tmp_path / "killed")[0].read_bytes() == whole
    assert len(rest) == 1, "two thirds were kept"


def test_other_settings_start_anew(study, tmp_path, monkeypatch):
    first = generation_job.rows_of
    monkeypatch.setattr(generation_job, "write_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path)
    monkeypatch.undo()
    calls = []
    monkeypatch.setattr(generation_job, "rows_of", lambda *arguments: calls.append(1) or first(*arguments))
    run(study, tmp_path, GenerateJob(Generation(**{**SETTINGS, "beams": 1})))
    assert calls


def test_a_split_of_other_texts_is_refused(study, tmp_path):
    model, split, _ = study
    other = verse_zoo.PAIRS[0]
    verse_zoo.PAIRS[0] = (other[0], "Another reference of another length.")
    try:
        documents = verse_zoo.write(tmp_path / "other")[2]
    finally:
        verse_zoo.PAIRS[0] = other
    with pytest.raises(ConfigurationError, match='document "verse 0" is not the one of that name'):
        run((model, split, documents), tmp_path)


def test_some_documents_are_those_of_the_draw(study, tmp_path):
    rows = read_rows(run(study, tmp_path, GenerateJob(Generation(**SETTINGS, documents=2)))[0], "generation/1")
    split = TokenSplit.open(study[1])
    drawn = {str(split.documents["document"].iloc[index]) for index in split.drawn(2)}
    assert {row["document"] for row in rows} == drawn and len(drawn) == 2


def test_fewest_above_most_is_refused():
    with pytest.raises(
        ConfigurationError, match=r"generation\.min_new_tokens is 9, and generation\.max_new_tokens is 8"
    ):
        parse(Generation, {"min_new_tokens": 9, "max_new_tokens": 8})


def test_the_program_writes_what_the_library_does(study, tmp_path):
    expected = run(study, tmp_path / "library")[0].read_bytes()
    files = [tmp_path / name for name in ("g.jsonl", "g.cost.jsonl", "g.json")]
    model, split, documents = study
    words = [
        "--settings",
        canonical_json(as_mapping(JOB)),
        "--model",
        model,
        "--split",
        split,
        "--documents",
        documents,
    ]
    words += ["--rows", files[0], "--cost", files[1], "--marker", files[2]]
    program = Path(__file__).parents[2] / "scripts/generate.py"
    done = subprocess.run([sys.executable, str(program), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert files[0].read_bytes() == expected
