from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest
import zstandard
from isotone.config.data import Source
from isotone.data.document import Troubles
from isotone.data.readers import compressed
from isotone.data.readers.files import open_files
from isotone.errors import ConfigurationError

ROWS = [{"text": f"Row {index}: naïve — 数.", "id": index} for index in range(20)]
JSONL = "".join(json.dumps(row, ensure_ascii=index % 2 == 0) + "\n" for index, row in enumerate(ROWS)).encode()


def read(path, part=None, **settings):
    troubles = Troubles()
    documents = list(open_files(Source(source="local", path=str(path), **settings), troubles, part))
    return documents, troubles


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


ENCODE = {
    "rows.jsonl": lambda data: data,
    "rows.jsonl.gz": gzip.compress,
    "rows.jsonl.zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


@pytest.mark.parametrize("name", ENCODE)
def test_rows_read_back_from_every_format(tmp_path, name):
    documents, troubles = read(write(tmp_path / name, ENCODE[name](JSONL)))
    assert [document.text for document in documents] == [row["text"] for row in ROWS]
    assert documents[3].name == f"{name}:4"
    assert troubles.result() == {}


def test_parquet_reads_only_its_column(tmp_path):
    pd.DataFrame(ROWS).rename(columns={"text": "body"}).to_parquet(tmp_path / "a.parquet")
    documents, _ = read(tmp_path, column="body")
    assert [document.text for document in documents] == [row["text"] for row in ROWS]
    none, troubles = read(tmp_path)
    assert none == [] and "it has: body, id" in troubles.examples["missing_column"]


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst"])
def test_members_that_follow_each_other_are_one_file(tmp_path, name):
    half = JSONL.index(b"\n", len(JSONL) // 2) + 1
    data = ENCODE[name](JSONL[:half]) + ENCODE[name](JSONL[half:])
    documents, troubles = read(write(tmp_path / name, data))
    assert len(documents) == 20 and not troubles.counts


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst"])
def test_a_truncated_archive_gives_what_it_has_and_is_counted(tmp_path, name):
    big = JSONL * 3000
    data = ENCODE[name](big)
    documents, troubles = read(write(tmp_path / name, data[: len(data) // 2]))
    assert 0 < len(documents) < 60_000
    assert troubles.counts["truncated_archive"] == 1


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst"])
def test_a_damaged_archive_is_counted_not_raised(tmp_path, name):
    documents, troubles = read(write(tmp_path / name, b"no archive at all" * 50))
    assert documents == [] and troubles.counts["damaged_archive"] == 1


def test_a_damaged_parquet_file_is_counted(tmp_path):
    pd.DataFrame(ROWS).to_parquet(tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    write(tmp_path / "b.parquet", whole[: len(whole) // 2])
    documents, troubles = read(tmp_path)
    assert len(documents) == 20 and troubles.counts["damaged_file"] == 1


def test_bad_rows_are_counted_by_kind_and_good_ones_used(tmp_path):
    bad = [
        b'{"text": "broken',
        b'{"text": "\xff\xfe"}',
        b'{"other": 1}',
        b'{"text": 17}',
        b'"just a string"',
        b"[" * 100_000,
    ]
    documents, troubles = read(write(tmp_path / "a.jsonl", b"\n".join([*bad, JSONL])))
    assert len(documents) == 20
    counts = {"invalid_json": 2, "invalid_utf8": 1, "missing_column": 1, "not_text": 1, "not_an_object": 1}
    assert dict(troubles.counts) == counts
    assert troubles.examples["invalid_utf8"] == "a.jsonl:2"


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "LONGEST_LINE", 1000)
    monkeypatch.setattr(compressed, "READ", 256)
    data = b'{"text": "' + b"x" * 5000 + b'"}\n' + JSONL
    documents, troubles = read(write(tmp_path / "a.jsonl", data))
    assert len(documents) == 20 and documents[0].name == "a.jsonl:2"
    assert troubles.counts["line_too_long"] == 1


def test_plain_text_by_file_paragraph_and_line(tmp_path):
    text = "\ufeffFirst line.\nSecond line.\r\n\n\nNext paragraph.\n"
    path = write(tmp_path / "book.txt", text.encode())
    assert [d.text for d in read(path)[0]] == [text.removeprefix("\ufeff").strip()]
    paragraphs = read(path, plain_text="paragraph")[0]
    assert [(d.name, d.text) for d in paragraphs] == [
        ("book.txt:1", "First line.\nSecond line."),
        ("book.txt:5", "Next paragraph."),
    ]
    assert [d.text for d in read(path, plain_text="line")[0]] == ["First line.", "Second line.", "Next paragraph."]


def test_a_text_file_that_is_not_utf8_is_counted(tmp_path):
    write(tmp_path / "good.txt", b"good")
    write(tmp_path / "latin.txt", "naïve".encode("latin-1"))
    documents, troubles = read(tmp_path)
    assert [d.name for d in documents] == ["good.txt"] and troubles.counts["invalid_utf8"] == 1


def test_a_folder_is_read_in_the_order_of_names_and_parts_are_found(tmp_path):
    write(tmp_path / "train" / "b.txt", b"b")
    write(tmp_path / "train" / "deep" / "a.txt", b"a")
    write(tmp_path / "test-0001.jsonl", b'{"text": "one"}')
    write(tmp_path / "test.jsonl", b'{"text": "all"}')
    write(tmp_path / "README.md", b"no data")
    assert [d.text for d in read(tmp_path)[0]] == ["b", "a"]
    assert [d.text for d in read(tmp_path, part="test")[0]] == ["one", "all"]
    assert [d.text for d in read(tmp_path / "test.jsonl", part="train")[0]] == ["b", "a"]
    with pytest.raises(ConfigurationError, match='part "validation": no file there'):
        read(tmp_path, part="validation")


def test_messages_become_documents_and_others_are_counted(tmp_path):
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]
    rows = [{"chat": chat}, {"chat": json.dumps(chat)}, {"chat": []}, {"chat": [{"role": "user"}]}, {"text": "no"}]
    write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    documents, troubles = read(tmp_path, messages="chat")
    assert [d.text for d in documents] == ["Hello\nGood day."] * 2
    assert json.loads(documents[0].messages_json) == chat
    assert dict(troubles.counts) == {"not_messages": 2, "missing_column": 1}


def test_missing_paths_and_unknown_files_are_errors(tmp_path):
    with pytest.raises(ConfigurationError, match="does not exist"):
        read(tmp_path / "absent")
    write(tmp_path / "notes.docx", b"")
    with pytest.raises(ConfigurationError, match=r"no file there ends in \.txt"):
        read(tmp_path)
