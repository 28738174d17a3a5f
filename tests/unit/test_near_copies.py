"""Near-copies are counted and left out; documents are drawn from the whole split; texts too short are refused early."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pandas as pd
import pytest
from isotone.config.data import Data, NearCopies, Tokens
from isotone.config.evaluation import Perplexity
from isotone.data.blocks import TokenSplit
from isotone.data.near_copies import WORDS_PER_GRAM, grams, shares_in
from isotone.data.readers.sources import make_corpus
from isotone.data.tokenisation import tokenise
from isotone.errors import ConfigurationError
from isotone.planning.preflight import check_study
from isotone.schema import parse
from isotone.studies.study import read_study

from tests.unit.models_zoo import tiny_tokenizer

SHARES = {"train": 0.4, "validation": 0.15, "test": 0.15, "attack_search": 0.15, "attack_test": 0.15}


def words(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return [f"w{draw.randrange(10_000)}" for _ in range(count)]


def shares_by_sets(train: list[list[str]], text: list[str]) -> float:
    """The share of 13-grams by plain sets of tuples."""

    def of(one: list[str]) -> set[tuple[str, ...]]:
        return {tuple(one[start : start + WORDS_PER_GRAM]) for start in range(len(one) - WORDS_PER_GRAM + 1)}

    own = of(text)
    return len(own & set().union(*map(of, train))) / len(own)


def test_shares_are_those_of_plain_sets() -> None:
    train = [words(seed, 200) for seed in range(5)]
    held_out = [
        words(9, 60),
        train[0][:60],
        words(8, 40) + train[1][50:90],
        train[2][:20] + train[3][:20] + words(7, 20),
    ]
    found = shares_in([" ".join(text) for text in train], [" ".join(text) for text in held_out])
    assert found == pytest.approx([shares_by_sets(train, text) for text in held_out]) and found[1] == 1.0


def test_grams_look_through_case_points_and_spaces_and_know_scripts_without_spaces() -> None:
    text = " ".join(words(1, 30))
    assert (grams(text) == grams(text.upper().replace(" ", ",\n  ") + ".")).all()
    chinese = "".join(chr(0x4E00 + random.Random(2).randrange(2000) + index) for index in range(40))
    assert len(grams(chinese)) == 28 and shares_in([chinese], [chinese[5:30]])[0] == 1.0
    assert shares_in(["one two three"], ["One, two, three!", "one two", "..."]).tolist() == [1.0, 0.0, 0.0]


def made(tmp_path: Path, action: str) -> dict:
    texts = [" ".join(words(seed, 60)) for seed in range(200)]
    texts += [texts[seed] + " " + " ".join(words(900 + seed, 5)) for seed in range(100)]  # copies but for five words
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    out = tmp_path / action
    out.mkdir()
    settings = {
        "source": "local",
        "path": str(tmp_path / "a.jsonl"),
        "splits": SHARES,
        "near_copies": {"action": action},
    }
    return make_corpus(parse(Data, settings), out) | {"folder": out}


def test_near_copies_are_counted_and_left_out_on_request(tmp_path: Path) -> None:
    counted, removed = made(tmp_path, "count"), made(tmp_path, "remove")
    assert made(tmp_path, "ignore")["near_copies"] == {}
    for split in ("validation", "test", "attack_search", "attack_test"):
        facts = counted["near_copies"][split]
        assert 0 < facts["near_copies"] < facts["documents"] == counted["splits"][split]["documents"]
        assert removed["splits"][split]["documents"] == facts["documents"] - facts["near_copies"]
        rows = pd.read_parquet(removed["folder"] / f"{split}.parquet")
        train = pd.read_parquet(removed["folder"] / "train.parquet").text
        assert (
            len(rows) == removed["splits"][split]["documents"] and max(shares_in(train, rows.text)) < NearCopies().share
        )
    assert counted["splits"]["train"] == removed["splits"]["train"]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("drawn")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    rows = [json.dumps({"text": " ".join(words(seed, 5 + seed % 30))}) for seed in range(300)]
    (folder / "a.jsonl").write_text("\n".join(rows))
    (folder / "documents").mkdir()
    make_corpus(
        parse(Data, {"source": "local", "path": str(folder / "a.jsonl"), "splits": SHARES}), folder / "documents"
    )
    return folder / "documents/test.parquet", folder / "tokenizer"


def test_documents_are_drawn_from_the_whole_split(split: tuple[Path, Path], tmp_path: Path) -> None:
    tokenise(*split, tmp_path / "test", Tokens())
    found = TokenSplit.open(tmp_path / "test")
    count = len(found.documents)
    drawn = found.drawn()
    assert sorted(drawn) == list(range(count)) and drawn != sorted(drawn)
    assert found.drawn(5) == drawn[:5] and max(found.drawn(10)) > 10
    other = TokenSplit(found.folder, found.tokens, found.fingerprint, found.info | {"origin": {"seed": 1}})
    assert other.drawn() != drawn


def test_a_split_too_short_for_a_protocol_is_refused_when_it_is_tokenised(
    split: tuple[Path, Path], tmp_path: Path
) -> None:
    tokenise(*split, tmp_path / "fits", Tokens(needs={"rolling": 1}))
    longest = int(TokenSplit.open(tmp_path / "fits").documents["length"].max())
    tokenise(*split, tmp_path / "test", Tokens(needs={"rolling": 1, "llamacpp": longest}))
    with pytest.raises(ConfigurationError, match=rf"has {longest} tokens.*llamacpp \({longest + 1}\).*\[rolling\]"):
        tokenise(*split, tmp_path / "none", Tokens(needs={"rolling": 1, "llamacpp": longest + 1}))
    assert not (tmp_path / "none").exists()


def test_what_each_protocol_needs_is_what_it_scores() -> None:
    import numpy as np
    from isotone.evaluation.perplexity import windows_of

    settings = Perplexity(length=32, stride=8)
    for start, prefix in (("bos", 0), ("none", None)):
        for protocol, tokens in settings.needs(start).items():
            for length, scored in ((tokens, True), (tokens - 1, False)):
                ids = np.arange(1, length + 1)
                windows = windows_of(protocol, ids, length=32, stride=8, window=32, prefix=prefix)
                assert (sum(len(window.targets) for window in windows) > 0) is scored, (protocol, start, length)


@pytest.mark.parametrize(
    ("attacks", "fits"),
    [
        ({"run": ["uat"], "shared": {"window": 60}, "uat": {"length": 3}}, True),
        ({"run": ["uat"], "shared": {"window": 61}, "uat": {"length": 3}}, False),
        ({"run": ["gcg"], "shared": {"window": 61}, "gcg": {"form": "universal", "flips": 5}}, False),
        ({"run": ["gcg"], "shared": {"window": 61}, "gcg": {"form": "document", "flips": 5}}, True),
        ({"run": ["random"], "shared": {"window": 61}, "uat": {"length": 3}}, True),
        ({"run": ["random"], "shared": {"window": 64}}, False),
    ],
)
def test_a_trigger_and_its_text_must_fit_into_the_context(attacks: dict, fits: bool) -> None:
    raw = {
        "study": "x",
        "model": {"architecture": {"context": 64}},
        "base": {"training": {"length": 64}},
        "training": {"length": 64},
        "perplexity": {"length": 64},
        "arms": {"baseline": {}},
        "attacks": attacks,
        "controls": {"attacks": []},
    }
    study = read_study(raw, "x")
    if fits:
        return check_study(study, "x")
    with pytest.raises(ConfigurationError, match=r"attacks\.shared\.window.*the model's context is 64"):
        check_study(study, "x")
    assert study.longest_sequence() > 64
    return None
