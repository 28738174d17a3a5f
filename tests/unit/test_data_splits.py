from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isotone.config.data import SPLITS, Data
from isotone.data.document import Document, Troubles, normalise
from isotone.data.readers import embedded
from isotone.data.readers.sources import make_corpus
from isotone.data.splits import build_splits, facts_of, place, read_documents, uniform
from isotone.errors import ConfigurationError
from isotone.schema import parse

SHARES = {"train": 0.8, "validation": 0.05, "test": 0.05, "attack_search": 0.05, "attack_test": 0.05}


def texts(folder):
    return {split: [row["text"] for row in read_documents(folder / f"{split}.parquet")] for split in SPLITS}


def no_parts(names):
    raise ConfigurationError(f"no parts {names}")


def many(count):
    return [Document(f"d{index}", f"This is text number {index}.") for index in range(count)]


def test_the_embedded_corpus_is_the_whole_book():
    chapters = list(embedded.chapters())
    assert len(chapters) == 1189
    assert chapters[0].name == "Genesis 1" and chapters[0].text.startswith("In the beginning God created the heaven")
    assert chapters[-1].name == "Revelation 22" and chapters[-1].text.endswith("be with you all. Amen.")
    assert [c.name for c in chapters if c.name.startswith("Psalms")][-1] == "Psalms 150"
    assert 4_000_000 < sum(len(chapter.text) for chapter in chapters) < 4_300_000
    assert not any(mark in chapter.text for chapter in chapters for mark in "[]<>")


def test_a_package_with_another_layout_is_refused(tmp_path, monkeypatch):
    module = tmp_path / "other.py"
    module.write_text("bible = Bible(1, 2)\n")
    monkeypatch.setattr(embedded, "_module", lambda: module)
    with pytest.raises(ConfigurationError, match="not laid out"):
        list(embedded.chapters())


def test_embedded_splits_are_disjoint_and_repeat(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first, second = (make_corpus(Data(), tmp_path / name) for name in ("one", "two"))
    assert first == second
    found = texts(tmp_path / "one")
    seen = [normalise(text) for split in SPLITS for text in found[split]]
    assert len(seen) == len(set(seen)) == 1189
    assert all(found[split] for split in SPLITS)
    assert first["used"]["version"] == "0.0.2"
    assert facts_of(tmp_path / "one" / "test.parquet")["share"] == 0.05


def test_another_seed_splits_otherwise():
    digests = [document.digest for document in many(300)]
    placed = [[place(digest, seed, SHARES) for digest in digests] for seed in (0, 1)]
    assert placed[0] != placed[1]


@given(st.integers(0, 5), st.text(min_size=1))
def test_a_split_follows_from_the_text_alone(seed, text):
    digest = Document("a", text).digest
    assert 0 <= uniform(seed, digest) < 1
    assert place(digest, seed, SHARES) == place(Document("elsewhere", text).digest, seed, SHARES)


def test_shares_are_kept_on_average():
    placed = [place(document.digest, 3, {"train": 0.5, "test": 0.25}) for document in many(4000)]
    assert placed.count("train") / 4000 == pytest.approx(0.5, abs=0.03)
    assert placed.count("test") / 4000 == pytest.approx(0.25, abs=0.03)
    assert placed.count(None) / 4000 == pytest.approx(0.25, abs=0.03)


def test_copies_that_differ_in_case_form_and_spacing_only_are_left_out(tmp_path):
    copies = [Document("copy", "  this IS\ttext\nnumber 7. "), Document("wide", "This is text number ７.")]
    control = [Document("other", "This is text number 7!")]
    troubles = Troubles()
    facts = build_splits(Data(), tmp_path, no_parts, [*many(200), *copies, *control], troubles)
    assert troubles.result() == {"copy": {"count": 2, "first": "copy"}}
    assert sum(fact["documents"] for fact in facts.values()) == 201


def test_empty_documents_are_counted_and_a_limit_holds(tmp_path):
    troubles = Troubles()
    data = parse(Data, {"documents": 150})
    facts = build_splits(data, tmp_path, no_parts, [Document("blank", " \n"), *many(400)], troubles)
    assert troubles.counts["empty"] == 1
    assert sum(fact["documents"] for fact in facts.values()) == 150


def test_more_documents_move_none_that_was_placed(tmp_path):
    placed = {}
    for count in (200, 400):
        folder = tmp_path / str(count)
        folder.mkdir()
        build_splits(Data(), folder, no_parts, many(count), Troubles())
        placed[count] = {text: split for split, found in texts(folder).items() for text in found}
    assert placed[200].items() <= placed[400].items()


def test_held_out_parts_come_first_and_never_return_in_training(tmp_path):
    data = parse(Data, {"splits": {"test": ["test", "validation"], "attack_test": ["test", "validation"]}})
    held_out = [Document(f"t{index}", f"Held out text {index}.") for index in range(60)]
    leaked = [Document("leak", "held OUT text 3.")]
    asked = []

    def parts(names):
        asked.append(names)
        return "validation", held_out

    troubles = Troubles()
    facts = build_splits(data, tmp_path, parts, [*many(300), *leaked], troubles)
    found = texts(tmp_path)
    assert asked == [["test", "validation"]]
    assert sorted(found["test"] + found["attack_test"]) == sorted(document.text for document in held_out)
    assert found["test"] and found["attack_test"]
    assert troubles.result() == {"also_held_out": {"count": 1, "first": "leak"}}
    assert facts["test"]["part"] == "validation" and facts["test"]["asked"] == ["test", "validation"]
    assert not any("leak" in text or "eld out" in text for text in found["train"])


def test_training_text_cannot_be_named_as_held_out():
    with pytest.raises(ConfigurationError, match="cannot be held out"):
        parse(Data, {"splits": {"test": ["test", "train"]}})


@pytest.mark.parametrize("documents", [[], [Document("blank", "")]])
def test_nothing_usable_is_an_error(tmp_path, documents):
    with pytest.raises(ConfigurationError, match="no usable document"):
        build_splits(Data(), tmp_path, no_parts, documents, Troubles())


def test_a_split_without_documents_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match=r"data\.splits\.\w+ is 0\.\d+, which gives it no document of 2"):
        build_splits(Data(), tmp_path, no_parts, many(2), Troubles())


def test_alternatives_are_tried_in_order(tmp_path):
    (tmp_path / "out").mkdir()
    wanted = {"source": "local", "path": str(tmp_path / "absent"), "alternatives": [{"source": "embedded"}]}
    result = make_corpus(parse(Data, wanted), tmp_path / "out")
    assert result["used"]["source"] == "embedded" and result["failed_before"] == ["local"]
    with pytest.raises(ConfigurationError, match="does not exist"):
        make_corpus(parse(Data, {**wanted, "alternatives": []}), tmp_path / "out")


def test_parts_of_the_embedded_corpus_do_not_exist(tmp_path):
    with pytest.raises(ConfigurationError, match="has no parts"):
        make_corpus(parse(Data, {"splits": {"test": ["test"]}}), tmp_path)


def test_held_out_parts_are_bounded_too(tmp_path):
    data = parse(Data, {"held_out_documents": 25, "splits": {"test": ["test"]}})
    facts = build_splits(data, tmp_path, lambda names: ("test", many(90)), many(300)[100:], Troubles())
    assert facts["test"]["documents"] == 25
