"""Natural noise: what it does to words, how texts of other lengths are aligned, and what a row says."""

from __future__ import annotations

from dataclasses import replace

import attack_zoo as az
import models_zoo as zoo
import numpy as np
import pytest
from isotone.attacks import noise
from isotone.attacks.documents import Document

TEXT = "in the beginning the king said unto the people walk beside the river and sing in the morning"


def generator(seed=0):
    return np.random.default_rng(seed)


def context(rate=0.5, **options):
    manifest = az.manifest(1)
    objective = az.TextObjective(az.objective().scorer, **options)
    return replace(az.context(objective, manifest, noise={"rate": rate}), codec=zoo.tiny_tokenizer())


def document(text=TEXT):
    ids = np.array(zoo.tiny_tokenizer().encode(text, add_special_tokens=False), np.int64)
    return Document("text", ids, np.arange(1, len(ids) - 1))


def test_each_kind_does_what_its_name_says():
    words = TEXT.split(" ")
    after = {kind: noise.disturbed(TEXT, kind, 0.5, generator()) for kind in noise.KINDS}
    assert (
        after["case"].lower() == TEXT
        and 3 < sum(a != b for a, b in zip(after["case"].split(), words, strict=True)) < 15
    )
    assert sorted(after["order"].split(" ")) == sorted(words) and after["order"] != TEXT
    assert after["whitespace"].replace(" ", "") == TEXT.replace(" ", "") and after["whitespace"] != TEXT
    typed = after["typos"].split(" ")
    assert len(typed) == len(words) and all(abs(len(a) - len(b)) <= 1 for a, b in zip(typed, words, strict=True))
    assert 2 < sum(a != b for a, b in zip(typed, words, strict=True)) < 15


@pytest.mark.parametrize("kind", noise.KINDS)
def test_the_rate_is_the_share_of_words(kind):
    words = ["people"] * 2000
    text = " ".join(f"{word}{index}" for index, word in enumerate(words))
    changed = []
    for rate in (0.02, 0.2):
        after = noise.disturbed(text, kind, rate, generator(1))
        if kind == "whitespace":
            changed.append(abs(after.count("  ")) * 2 / 2000)  # half are doubled, half are lost
        else:
            before, now = text.split(" "), after.split(" ")
            changed.append(np.mean([a != b for a, b in zip(before, now, strict=True)]))
        assert changed[-1] == pytest.approx(rate, rel=0.35)


def test_short_words_and_signs_are_left_alone():
    for seed in range(20):
        assert noise.mistype("it,", generator(seed)) == "it," and noise.mistype("12345", generator(seed)) == "12345"
        assert noise.neighbour("A", generator(seed)) == "S" and noise.neighbour("p", generator(seed)) == "o"


def test_a_row_compares_the_tokens_that_stand_in_both_texts():
    target, text = context(rate=0.3), document()
    row = noise.row_of(target, text, "typos")
    tokenizer, objective = target.codec, target.objective
    other = noise.disturbed(tokenizer.decode(text.ids), "typos", 0.3, noise.stream(0, "noise/typos", "text"))
    ids = np.array(tokenizer.encode(other, add_special_tokens=False))[: objective.scorer.context - 1]
    before, after = objective.scores(text.ids[None])[0], objective.scores(ids[None])[0]
    first, second, spans = noise.matched(text.ids, ids)
    assert len(ids) != len(text.ids) and (text.ids[first] == ids[second]).all() and 0 < len(first) < len(ids)
    assert row["J"] == pytest.approx((after[second] - before[first]).mean(), abs=1e-6)
    assert row["total"] == pytest.approx(after.mean() - before.mean(), abs=1e-6)
    assert len(row["flips"]) == len(spans) > 0
    assert sum(part["tokens"] for part in row["distance"]) <= len(first)
    hot = noise.row_of(context(rate=0.3, temperature=1.5), text, "typos")
    assert (
        "calibrated" not in row and hot["J"] == row["J"] and hot["calibrated"]["J"] != pytest.approx(row["J"], abs=1e-4)
    )


def test_a_text_that_noise_leaves_as_it_is_has_no_damage():
    row = noise.row_of(context(rate=1e-9), document(), "case")
    assert row["J"] == 0 and row["flips"] == [] and row["distance"] == [] and row["accuracy"] == row["clean_accuracy"]


def test_more_noise_than_the_context_holds_is_cut():
    target = context(rate=1.0)
    room = target.objective.scorer.context
    text = document(" ".join([TEXT] * 40))
    short = Document("long", text.ids[: room - 1], text.eligible)
    assert np.isfinite(noise.row_of(target, short, "typos")["J"])
