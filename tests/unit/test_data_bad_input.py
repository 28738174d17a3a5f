"""Files as people have them: one bad row is counted and its neighbours stay; other encodings, archives and names."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from isotone.config.data import Data, Source
from isotone.data.document import Document, Troubles
from isotone.data.readers.files import open_files
from isotone.data.readers.sources import make_corpus
from isotone.errors import ConfigurationError
from isotone.schema import parse

TEXTS = [f"Text {index}: naïve 数 and some more words" for index in range(20)]
ROWS = [json.dumps({"text": text}) for text in TEXTS]


def read(path: Path, **settings: str) -> tuple[list[Document], Troubles]:
    troubles = Troubles()
    return list(open_files(Source(source="local", path=str(path), **settings), troubles)), troubles


def texts(path: Path, **settings: str) -> list[str]:
    documents, troubles = read(path, **settings)
    assert not troubles.counts
    return [document.text for document in documents]


def test_shards_of_one_name_in_several_folders_are_several_documents(tmp_path: Path) -> None:
    for part in ("a", "b/deep"):
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / "part-0.jsonl").write_text("\n".join(ROWS[:2]))
        (tmp_path / part / "one.txt").write_text(part)
        pd.DataFrame({"text": TEXTS[:2]}).to_parquet(tmp_path / part / "part-0.parquet")
    names = [document.name for document in read(tmp_path)[0]]
    assert len(set(names)) == len(names) == 10
    assert {"a/one.txt", "b/deep/part-0.jsonl:2", "b/deep/part-0.parquet:1"} <= set(names)
    assert [document.name for document in read(tmp_path / "a/part-0.jsonl")[0]] == ["part-0.jsonl:1", "part-0.jsonl:2"]


def test_a_file_name_that_is_no_utf8_is_spelt_out(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("good")
    (document,), _ = read(tmp_path)
    assert document.name == "caf\\xe9.txt" and document.name.encode()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_a_parquet_value_that_is_no_utf8_is_counted(tmp_path: Path, kind: pa.DataType) -> None:
    raw = [text.encode() for text in TEXTS]
    raw[7] = b"caf\xe9 \xff"
    plain = pa.array(raw, pa.large_binary() if kind == pa.large_string() else pa.binary())
    column = pa.Array.from_buffers(kind if not pa.types.is_dictionary(kind) else pa.string(), 20, plain.buffers())
    pq.write_table(
        pa.table({"text": column.dictionary_encode() if pa.types.is_dictionary(kind) else column}),
        tmp_path / "a.parquet",
    )
    documents, troubles = read(tmp_path)
    assert [document.text for document in documents] == TEXTS[:7] + TEXTS[8:]
    assert dict(troubles.counts) == {"invalid_utf8": 1} and troubles.examples["invalid_utf8"] == "a.parquet:8"


def test_chats_with_bytes_that_are_no_utf8_are_counted(tmp_path: Path) -> None:
    content = pa.Array.from_buffers(pa.string(), 2, pa.array([b"good", b"caf\xe9"], pa.binary()).buffers())
    turns = pa.StructArray.from_arrays([pa.array(["user", "user"]), content], ["role", "content"])
    pq.write_table(pa.table({"chat": pa.ListArray.from_arrays([0, 1, 2], turns)}), tmp_path / "a.parquet")
    documents, troubles = read(tmp_path, messages="chat")
    assert [document.text for document in documents] == ["good"] and dict(troubles.counts) == {"invalid_utf8": 1}


def test_chats_that_are_broken_json_are_counted_in_every_format(tmp_path: Path) -> None:
    values = ['[{"role": "user", "content": "good"}]', "[{broken", "[" * 100_000, "[" + "9" * 5000 + "]", '"x"']
    pd.DataFrame({"chat": values}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"chat": value}) for value in values))
    documents, troubles = read(tmp_path, messages="chat")
    assert len(documents) == 2 and dict(troubles.counts) == {"not_messages": 8}


def test_wrong_types_and_nulls_are_counted_in_every_format(tmp_path: Path) -> None:
    rows = [{"text": value} for value in ("good", None, 3, 1.5, True, ["a"], {"en": "a"})]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    documents, troubles = read(tmp_path)
    assert len(documents) == 1 and dict(troubles.counts) == {"null": 1, "not_text": 5}
    assert troubles.examples["null"] == 'a.jsonl:2: "text" is null'
    for name, values in (("n", [None, "good"]), ("i", [1, 2]), ("b", [b"x", b"y"]), ("d", [pd.Timestamp(0), None])):
        pd.DataFrame({"text": values}).to_parquet(tmp_path / f"{name}.parquet")
        documents, troubles = read(tmp_path / f"{name}.parquet")
        assert (len(documents), troubles.counts.total()) == ((1, 1) if name == "n" else (0, 2)), name


@pytest.mark.parametrize("other", ["9" * 5000, "NaN", "1e999", "[" * 900 + "]" * 900, "[" * 200_000 + "]" * 200_000])
def test_odd_json_in_another_column_costs_at_most_its_row(tmp_path: Path, other: str) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join([*ROWS[:5], f'{{"text": "odd", "id": {other}}}', *ROWS[5:]]))
    documents, troubles = read(tmp_path)
    assert len(documents) + troubles.counts["invalid_json"] == 21 and len(documents) >= 20


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gz"])
def test_a_mark_in_front_says_the_encoding(tmp_path: Path, encoding: str, pack) -> None:
    def encoded(text: str) -> bytes:
        return pack((f"\ufeff{text}" if encoding.endswith("be") else text).encode(encoding))

    end = "" if pack(b"") == b"" else ".gz"
    (tmp_path / f"a.txt{end}").write_bytes(encoded("\r\n".join(TEXTS)))
    (tmp_path / f"b.jsonl{end}").write_bytes(encoded("\n".join(ROWS)))
    assert texts(tmp_path / f"a.txt{end}", plain_text="line") == texts(tmp_path / f"b.jsonl{end}") == TEXTS
    assert texts(tmp_path / f"a.txt{end}") == ["\r\n".join(TEXTS)]


def test_a_broken_unit_of_utf16_costs_its_line(tmp_path: Path) -> None:
    broken = "one\nbro".encode("utf-16") + b"\x00\xd8" + "ken\nthree".encode("utf-16-le") + b"\x41"
    (tmp_path / "a.txt").write_bytes(broken)
    documents, troubles = read(tmp_path, plain_text="line")
    assert [document.text for document in documents] == ["one"] and dict(troubles.counts) == {"invalid_utf8": 2}


def test_files_joined_by_cat_leave_no_mark_inside_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n")
    assert texts(tmp_path, plain_text="line") == ["one", "two"]


@pytest.mark.parametrize("name", ["A.TXT", "a.Jsonl", "A.NDJSON", "a.JSONL.GZ", "a.ndjson.zst", "A.PARQUET"])
def test_endings_may_be_capitals(tmp_path: Path, name: str) -> None:
    if name.lower().endswith("parquet"):
        pd.DataFrame({"text": TEXTS}).to_parquet(tmp_path / name)
    else:
        pack = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}.get(name.lower()[-3:].strip("."))
        data = "\n".join(TEXTS if "TXT" in name else ROWS).encode()
        (tmp_path / name).write_bytes(pack(data) if pack else data)
    assert texts(tmp_path, plain_text="line") == TEXTS


def test_a_compressed_file_without_its_ending_is_recognised(tmp_path: Path) -> None:
    data = "\n".join(ROWS).encode()
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(data))
    (tmp_path / "b.jsonl").write_bytes(zstandard.ZstdCompressor().compress(data))
    assert texts(tmp_path) == TEXTS * 2


def test_padding_and_empty_members_behind_gzip_are_no_damage(tmp_path: Path) -> None:
    data = gzip.compress("\n".join(ROWS).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(data + b"\0" * 5000)
    (tmp_path / "b.jsonl.gz").write_bytes(data + b"\0" * 7 + gzip.compress(b""))
    assert texts(tmp_path) == TEXTS * 2


def test_a_frame_with_a_huge_window_says_how_to_go_on(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "a.jsonl.zst").write_bytes(packer.compress("\n".join(ROWS).encode()) + packer.flush())
    documents, troubles = read(tmp_path)
    assert not documents and "zstd -d --long=31" in troubles.examples["damaged_archive"]


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.jsonl.xz", "a.zip"])
def test_files_of_other_kinds_are_answered_with_a_way(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    words = {"a.json": "jq -c", "a.csv": "to_parquet", "a.jsonl.xz": "decompress this one", "a.zip": "Unpack it"}
    with pytest.raises(ConfigurationError, match=words[name]):
        read(tmp_path)


@pytest.mark.parametrize(
    "body", [json.dumps([{"text": "a"}]), '{"text": "a"}{"text": "b"}', '{\n"text": "a"\n}', '"a"']
)
def test_what_is_not_json_lines_is_said(tmp_path: Path, body: str) -> None:
    (tmp_path / "a.jsonl").write_text(body)
    with pytest.raises(ConfigurationError, match=r"no usable document.*JSON Lines has one (JSON )?object per line"):
        make_corpus(parse(Data, {"source": "local", "path": str(tmp_path)}), tmp_path)


def corpus(tmp_path: Path, **settings: str) -> dict:
    shares = {"train": 0.4, "validation": 0.15, "test": 0.15, "attack_search": 0.15, "attack_test": 0.15}
    out = tmp_path / "out"
    out.mkdir()
    return make_corpus(parse(Data, {"source": "local", "splits": shares, **settings}), out)


def test_utf16_without_a_mark_is_counted_and_not_taken_for_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"text number {index} \0 with a stray byte" for index in range(60)))
    (tmp_path / "b.txt").write_bytes("\n".join(f"text in two bytes {index}" for index in range(20)).encode("utf-16-le"))
    result = corpus(tmp_path, path=str(tmp_path), plain_text="line")
    assert sum(facts["documents"] for facts in result["splits"].values()) == 60
    assert result["left_out"]["mostly_nul"]["count"] == 20


def test_half_characters_in_a_chat_are_counted(tmp_path: Path) -> None:
    rows = [{"m": [{"role": "user", "content": f"text {index}"}]} for index in range(60)]
    rows += [{"m": [{"role": "\ud83d", "content": "a"}]}, {"m": [{"role": "user", "content": "\ud83d"}]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert corpus(tmp_path, path=str(tmp_path), messages="m")["left_out"]["invalid_unicode"]["count"] == 2


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("good")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [document.text for document in read(Path("~/texts"))[0]] == ["good"]
    with pytest.raises(ConfigurationError, match="does not exist"):
        read(Path("~nobody-of-this-name/texts"))
