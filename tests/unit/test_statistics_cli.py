"""`python -m isotone.statistics`: planning and comparing from a shell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from isotone.errors import ConfigurationError
from isotone.statistics import __main__ as program


def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["statistics", *words])
    assert program.main() == 0
    return capsys.readouterr().out


def rows(path: Path, values: list[float], **more: object) -> Path:
    lines = [
        json.dumps({"document": f"d{index}", "J": value, "variant": "greedy", **more})
        for index, value in enumerate(values)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["paired", "--effect", "0.5", "--spread", "1"], "34 pairs"),
        (["proportions", "--first", "0.5", "--second", "0.65"], "170 units in each group"),
        (["mcnemar", "--only-first", "0.3", "--only-second", "0.05"], "pairs reach power 0.8"),
        (
            ["seeds", "--effect", "0.05", "--seed-spread", "0.02", "--document-spread", "0.1", "--documents", "200"],
            "seeds on 200 documents",
        ),
        (
            ["seeds", "--effect", "0.01", "--seed-spread", "0", "--document-spread", "1", "--documents", "10"],
            "No number of seeds",
        ),
    ],
)
def test_planning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], answer: str
) -> None:
    assert answer in say(monkeypatch, capsys, "plan", *words)


def test_comparing_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    base, shift = generator.normal(0.5, 0.1, 40), generator.normal(0, 0.01, 40)
    shift -= shift.mean()
    one, two = rows(tmp_path / "a.jsonl", base.tolist()), rows(tmp_path / "b.jsonl", (base - 0.1 - shift).tolist())
    text = say(monkeypatch, capsys, "compare", str(one), str(two), "--threshold", "0.45", "--resamples", "500")
    assert "40 paired documents" in text and "0.1000" in text and "McNemar" in text
    answer = json.loads(say(monkeypatch, capsys, "compare", str(one), str(two), "--json", "--where", "variant=greedy"))
    assert answer["difference"]["value"] == pytest.approx(0.1)
    assert answer["sign_flip"]["p"] < 0.001


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_text('{"document": "d0"'), "is not JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is not JSON"),
        (lambda path: path.write_text("[1, 2]"), "has no 'document'"),
        (lambda path: path.write_text('{"variant": "greedy", "J": 1.0}'), "has no 'document'"),
        (lambda path: path.write_text('{"document": "d0", "variant": "greedy", "J": null}'), "not a number"),
        (lambda path: path.write_text('{"document": "d0", "variant": "greedy", "J": NaN}'), "not a number"),
        (lambda path: path.write_text(path.read_text() * 2), "stands twice"),
        (lambda path: rows(path, [1.0]), "do not hold the same documents"),
        (lambda path: path.write_text(path.read_text().replace("d2", "d9")), "2 are in one only, such as 'd2'"),
        (lambda path: path.write_text(path.read_text().replace("greedy", "one_shot")), "no row that fits"),
    ],
)
def test_what_cannot_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil, message: str) -> None:
    one, two = rows(tmp_path / "a.jsonl", [0.1, 0.2, 0.3]), rows(tmp_path / "b.jsonl", [0.1, 0.2, 0.4])
    spoil(two)
    monkeypatch.setattr(sys, "argv", ["statistics", "compare", str(one), str(two), "--where", "variant=greedy"])
    with pytest.raises(ConfigurationError, match=message):
        program.main()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("plan proportions --first 1.5 --second 0.5", "--first is 1.5; it must be a share"),
        ("plan proportions --first 0.5 --second -0.1", "--second is -0.1"),
        ("plan mcnemar --only-first 0.7 --only-second 0.5", "add up to more than 1"),
        ("plan paired --effect 1 --spread 0", "--spread is 0"),
        ("plan paired --effect nan --spread 1", "--effect is nan"),
        ("plan paired --effect 1 --spread 1 --alpha 1", "--alpha is 1"),
        ("plan seeds --effect 1 --seed-spread -1 --document-spread 1 --documents 5", "--seed-spread is -1"),
        ("plan seeds --effect 1 --seed-spread 1 --document-spread 1 --documents 1", "--documents is 1"),
        ("compare a b --confidence 95", "--confidence is 95"),
        ("compare a b --resamples 1", "--resamples is 1"),
        ("compare a b --seed -1", "--seed is -1"),
        ("compare a b --where variant", "--where variant has no value"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(monkeypatch: pytest.MonkeyPatch, words: str, message: str) -> None:
    monkeypatch.setattr(sys, "argv", ["statistics", *words.split()])
    with pytest.raises(ConfigurationError, match=message):
        program.main()


def test_one_document_is_no_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = rows(tmp_path / "a.jsonl", [0.1]), rows(tmp_path / "b.jsonl", [0.1])
    monkeypatch.setattr(sys, "argv", ["statistics", "compare", str(one), str(two)])
    with pytest.raises(ConfigurationError, match="two documents"):
        program.main()


def test_bad_input_is_one_paragraph_and_code_78(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "isotone.statistics",
        "plan",
        "paired",
        "--effect",
        "1",
        "--spread",
        "1",
        "--power",
        "2",
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 78
    assert "Traceback" not in found.stderr and "--power" in found.stderr
