"""Packed blocks: nothing is padded, no target is lost, nothing is read before it is needed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from isotone.data.blocks import UNSCORED, Blocks, TokenSplit
from isotone.errors import ConfigurationError, InputOutputError


def make(
    folder: Path, tokens: list[int], dtype: str = "uint16", scored: list[int] | None = None, **info: object
) -> TokenSplit:
    folder.mkdir(exist_ok=True)
    np.array(tokens, dtype).tofile(folder / "tokens.bin")
    if scored is not None:
        np.array(scored, np.uint8).tofile(folder / "scored.bin")
    facts = {"dtype": dtype, "tokens": len(tokens), "fingerprint": "f", "bos": 9, "eos": 9, **info}
    (folder / "data.json").write_text(json.dumps(facts))
    return TokenSplit.open(folder)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_every_token_but_the_first_is_a_target_once(tmp_path: Path, dtype: str) -> None:
    blocks = Blocks(make(tmp_path, list(range(100, 125)), dtype), 4)
    assert len(blocks) == 6
    inputs_BT, targets_BT = blocks.arrays(np.arange(6))
    assert inputs_BT.dtype == np.int64
    assert inputs_BT.ravel().tolist() == list(range(100, 124))
    assert targets_BT.ravel().tolist() == list(range(101, 125))
    again, _ = blocks.arrays(np.array([5, 0]))
    assert again.tolist() == [inputs_BT[5].tolist(), inputs_BT[0].tolist()]


def test_a_distinct_bos_is_an_input_and_never_a_target(tmp_path: Path) -> None:
    tokens = [8, 1, 2, 9, 8, 3, 4, 9, 8]
    _, targets = Blocks(make(tmp_path, tokens, bos=8, eos=9, document_start="bos"), 4).arrays(np.arange(2))
    assert targets.ravel().tolist() == [1, 2, 9, UNSCORED, 3, 4, 9, UNSCORED]
    _, targets = Blocks(make(tmp_path, tokens, bos=8, eos=9, document_start="none"), 4).arrays(np.arange(2))
    assert UNSCORED not in targets
    _, targets = Blocks(make(tmp_path, tokens, bos=9, eos=9, document_start="bos"), 4).arrays(np.arange(2))
    assert UNSCORED not in targets


def test_only_scored_tokens_are_targets(tmp_path: Path) -> None:
    split = make(tmp_path, [1, 2, 3, 4, 5], scored=[1, 0, 1, 0, 1])
    _, targets = Blocks(split, 4).arrays(np.array([0]))
    assert targets.tolist() == [[UNSCORED, 3, UNSCORED, 5]]


def test_the_text_of_a_document_comes_without_special_tokens(tmp_path: Path) -> None:
    split = make(tmp_path, [9, 1, 2, 9, 3, 9])
    pd.DataFrame({"document": ["a", "b"], "start": [1, 4], "length": [2, 1]}).to_parquet(tmp_path / "documents.parquet")
    assert split.text_ids(0).tolist() == [1, 2]
    assert split.text_ids(1).tolist() == [3]


def test_what_is_not_whole_or_too_short_is_said(tmp_path: Path) -> None:
    split = make(tmp_path, [1, 2, 3])
    with pytest.raises(ConfigurationError, match="too few for one block"):
        Blocks(split, 3)
    with pytest.raises(IndexError):
        Blocks(split, 2).arrays(np.array([1]))
    with pytest.raises(IndexError):
        Blocks(split, 2).arrays(np.array([-1]))
    assert [len(part) for part in Blocks(split, 2).arrays(np.array([], np.int64))] == [0, 0]
    (tmp_path / "tokens.bin").write_bytes(b"\0" * 4)
    with pytest.raises(InputOutputError, match="promises 3 tokens"):
        TokenSplit.open(tmp_path)
    with pytest.raises(ConfigurationError):
        Blocks(make(tmp_path / "empty", []), 2)
