"""The strongest of an ensemble: document by document, by J, with the cost of all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from isotone.attacks.strongest import strongest
from isotone.errors import ConfigurationError
from isotone.records import read_json, read_rows, write_rows
from synthetic_study import study_settings

ROOT = Path(__file__).resolve().parents[2]


def row(attack: str, variant: str, document: str, J: float) -> dict:
    ledger = {"forward_tokens": 100, "backward_tokens": 10, "candidates": 1}
    return {
        "attack": attack,
        "variant": variant,
        "document": document,
        "J": J,
        "ledger": ledger,
        "search": {"ceiling": True},
    }


ROWS = {
    "hotflip": [
        row("hotflip", "one_shot", "a", 0.1), row("hotflip", "one_shot", "b", 0.9),
        row("hotflip", "greedy", "a", 0.5), row("hotflip", "greedy", "b", 0.6), row("hotflip", "greedy~restart", "a", 9.0),
    ],
    "query": [row("query", "greedy", "a", 0.7), row("query", "greedy", "b", 0.2)],
}  # fmt: skip


def test_the_best_form_of_each_document_speaks_for_all() -> None:
    found = strongest(ROWS)
    assert {name: (entry["J"], entry["of"]) for name, entry in found.items()} == {
        "a": (0.7, {"attack": "query", "variant": "greedy"}),
        "b": (0.9, {"attack": "hotflip", "variant": "one_shot"}),
    }
    for entry in found.values():
        assert (entry["attack"], entry["variant"]) == ("strongest", "best") and "search" not in entry
        assert entry["ledger"] == {"forward_tokens": 300, "backward_tokens": 30, "candidates": 3}  # three forms


def test_members_on_other_documents_are_refused() -> None:
    with pytest.raises(ConfigurationError, match='measured on different documents \\("b" is in one only\\)'):
        strongest({**ROWS, "query": ROWS["query"][:1]})


def test_the_program_writes_rows_and_says_who_was_the_strongest(tmp_path: Path) -> None:
    for name, rows in ROWS.items():
        write_rows(tmp_path / f"{name}.jsonl", "attack/1", rows)
    paths = {key: tmp_path / f"out.{key}" for key in ("rows", "cost", "markers")}
    command = [
        sys.executable,
        str(ROOT / "scripts/strongest.py"),
        "--settings",
        '{"strongest": {"members": ["hotflip", "query"]}}',
    ]
    command += ["--sources", str(tmp_path / "hotflip.jsonl"), str(tmp_path / "query.jsonl")]
    command += [part for key, path in paths.items() for part in (f"--{key}", str(path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [entry["J"] for entry in read_rows(paths["rows"], "attack/1")] == [0.7, 0.9]
    assert read_json(paths["markers"])["result"]["of"] == {"query greedy": 1, "hotflip one_shot": 1}
    done = subprocess.run([*command[:-1], str(paths["markers"]), "extra"], capture_output=True, text=True, check=False)
    assert done.returncode == 78 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": ("hotflip", "strongest")}, 'member "query" is not in attacks.run'),
        ({"control_attacks": ("strongest",)}, 'member "hotflip" is not in controls.attacks'),
        ({"settings": {"query": {"flips": 3}}}, "change {'hotflip': 5, 'query': 3} tokens"),
        ({"settings": {"strongest": {"members": ["hotflip", "uat"]}}, "attacks": ("hotflip", "uat", "strongest")}, "universal attack"),
        ({"settings": {"strongest": {"members": ["hotflop"]}}}, 'Did you mean "hotflip"'),
    ],
)  # fmt: skip
def test_an_ensemble_that_cannot_be_is_refused_before_anything_runs(change: dict, message: str) -> None:
    options = {
        "attacks": ("hotflip", "query", "strongest"),
        "settings": {"strongest": {"members": ["hotflip", "query"]}},
    } | change
    options["settings"] = {"strongest": {"members": ["hotflip", "query"]}} | options["settings"]
    with pytest.raises(ConfigurationError) as caught:
        study_settings(**options)
    assert message in str(caught.value)
