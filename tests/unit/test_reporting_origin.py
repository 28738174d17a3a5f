"""What the report says of the text, of the units that fit a protocol, and of runs that broke their criteria."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from isotone.records import Json, read_json
from isotone.reporting import final_results as final
from isotone.reporting.analysis.origin import origin
from isotone.reporting.page.html import render
from isotone.reporting.page.terminal import terminal_summary
from isotone.reporting.tables.study import all_tables
from synthetic_study import study_settings, write_json, write_marker, write_study

SAID = {
    "no": "has not seen the test text",
    "possible": "may contain the test text",
}


def said(seen: str = "no", **corpus: Any) -> str:
    return " ".join(origin({"test_text_seen_in_pretraining": seen}, {"corpus": corpus}))


def test_the_source_that_was_really_used_is_named() -> None:
    hub = {"source": "hub", "name": "a/b", "revision": "abc123", "subset": "", "split": "train"}
    text = said(used=hub, failed_before=["local"])
    assert "Source of the text: a/b (hub, revision abc123)." in text
    assert "an alternative: 1 preferred source (local) could not be had" in text
    first = said(used={"source": "embedded", "package": "p", "version": "1.2"}, failed_before=[])
    assert "p (embedded, version 1.2)." in first and "alternative" not in first
    pairs = {"source": "embedded", "package": "p", "version": "1.2", "targets": "q", "targets_version": "0.1"}
    assert "p (embedded, version 1.2), with the targets of q 0.1." in said(used=pairs)


def test_a_part_that_stands_in_for_another_is_named() -> None:
    splits = {"test": {"part": "validation", "asked": ["test", "validation"]}, "train": {"share": 0.8}}
    assert "Split test is part validation of the source, since test could not be had." in said(splits=splits)
    asked = {"test": {"part": "test", "asked": ["test", "validation"]}}
    assert "Split test is part test of the source." in said(splits=asked)


@pytest.mark.parametrize("seen", list(SAID))
def test_whether_the_model_may_know_the_test_text(seen: str) -> None:
    assert [word for word in SAID.values() if word in said(seen)] == [SAID[seen]]
    assert not any(word in said("") for word in SAID.values()), "nothing is claimed where nothing was found out"


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Json, Path]:
    study = study_settings(arms=("baseline", "mlp_in"), seeds=(7, 8), attacks=("hotflip",), documents=6, resamples=200)
    folder = write_study(tmp_path_factory.mktemp("study"), study)
    setup = read_json(folder / "setup.json")
    setup["result"]["test_text_seen_in_pretraining"] = "possible"
    write_json(folder / "setup.json", setup)
    corpus = {"used": {"source": "local", "name": "<b>.txt"}, "failed_before": ["hub"]}
    write_marker(folder / "data/corpus.json", "corpus", settings={}, inputs={}, outputs={}, result=corpus)
    path = folder / "runs/mlp_in/seed-8/train.json"
    marker = read_json(path)
    marker["cost"]["flags"] = ["throughput: 12 tokens per second, below 5000 (step 20)"]
    write_json(path, marker)
    document = final.build(study, folder)
    final.validate(document)
    return document, folder


def test_page_and_terminal_say_it(study_folder: tuple[Json, Path]) -> None:
    document, folder = study_folder
    flag = "mlp_in/seed-8: throughput: 12 tokens per second, below 5000 (step 20)"
    for text in (render(document, folder), terminal_summary(document)):
        flat = " ".join(text.split())
        for words in (
            "Success criteria that runs broke",
            flag,
            "may contain the test text",
            "1 preferred source (hub)",
        ):
            assert words in flat, words
    assert "&lt;b&gt;.txt (local)" in render(document, folder) and "<b>.txt" not in render(document, folder)
    costs = next(table for table in all_tables(document) if table.name == "costs")
    assert [row["flags"] for row in costs.rows if row["run"] == "mlp_in/seed-8"] == [flag.partition(": ")[2]]
    assert costs.columns[-1].key == "flags"


def test_without_a_broken_criterion_there_is_no_heading(study_folder: tuple[Json, Path]) -> None:
    document, folder = study_folder
    costs = document["costs"] | {"flags": {run: [] for run in document["costs"]["flags"]}}
    assert "Success criteria" not in render(document | {"costs": costs}, folder)
    assert "Success criteria" not in terminal_summary(document | {"costs": costs})


def test_units_of_whole_documents_only_where_whole_documents_are_scored(study_folder: tuple[Json, Path]) -> None:
    """Other protocols score a part of a document, and its bytes are those of the whole."""
    for protocols in study_folder[0]["results"]["quality"].values():
        assert len(protocols) == 4
        for name, entry in protocols.items():
            whole = entry["bits_per_byte"] is not None, entry["word_perplexity"] is not None
            assert whole == ((True, True) if name == "rolling" else (False, False)), name


def test_groups_of_rows_have_names(study_folder: tuple[Json, Path]) -> None:
    page = render(*study_folder)
    assert "baseline, mlp_in: perplexity.jsonl (4 files)" in page
    assert "mlp_in: attacks/hotflip.jsonl (2 files)" in page
