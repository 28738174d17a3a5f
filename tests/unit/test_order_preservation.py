import json
from collections import Counter

import models_zoo as zoo
import numpy as np
import pytest
import torch
from isotone import models
from isotone.config.evaluation import OrderJob, OrderPreservation
from isotone.errors import ConfigurationError
from isotone.evaluation import graded
from isotone.evaluation import order_preservation as order
from isotone.evaluation.order_preservation_job import order_preservation
from isotone.records import read_json, read_rows
from isotone.schema import parse


def chains(axes=3, length_of=lambda sentence: len(sentence.split())):
    return graded.chains(axes, 0, length_of)


def test_corpus_is_large_enough_and_splits_share_neither_topic_nor_template():
    assert len(graded.AXES) >= 12 and len(graded.TOPICS) == 18 and len(graded.TEMPLATES) == 3
    assert all(len(levels) == graded.LEVELS and all(levels) for levels in graded.AXES.values())
    found = chains(len(graded.AXES))
    parts = {part: [chain for chain in found if chain.part == part] for part in ("train", "test")}
    for attribute in ("topic", "template"):
        train, test = ({getattr(chain, attribute) for chain in parts[part]} for part in ("train", "test"))
        assert train and test and not train & test
    assert len(parts["train"]) == len(graded.AXES) * 9 * 2 and len(parts["test"]) == len(graded.AXES) * 9
    assert len({chain.name for chain in found}) == len(found)
    assert max(Counter(sentence for chain in found for sentence in chain.sentences).values()) <= 4
    with pytest.raises(ConfigurationError, match=r"order_preservation\.axes is 99"):
        chains(99)


def test_pairs_are_matched_in_length():
    tokenizer = zoo.tiny_tokenizer()

    def length_of(sentence):
        return len(tokenizer.encode(sentence, add_special_tokens=False))

    found = chains(12, length_of)
    assert sum(len(chain.pairs) for chain in found) > 100
    for chain in found:
        for low, high in chain.pairs:
            assert low < high and length_of(chain.sentences[low]) == length_of(chain.sentences[high])


def rows_with(signal, seed=0):
    """Rows for states in which the level stands along one direction, as strong as ``signal``."""
    found = chains(2)
    generator = np.random.default_rng(seed)
    states = generator.standard_normal((1, len(found) * graded.LEVELS, 12))
    states[0, :, 3] += signal * np.tile(np.arange(graded.LEVELS), len(found))
    return order.rows_of(found, states, OrderPreservation(probes=8)), found


def test_planted_order_is_found_and_nulls_stay_at_one_half():
    rows, found = rows_with(3.0)
    mean = {kind: np.mean([row[kind] for row in rows]) for kind in ("share", "shuffled", "random")}
    assert mean["share"] > 0.9
    assert abs(mean["random"] - 0.5) < 0.25 and mean["shuffled"] < mean["share"]
    nothing, _ = rows_with(0.0)
    for kind in ("share", "shuffled", "random"):
        assert abs(np.mean([row[kind] for row in nothing]) - 0.5) < 0.12
    summary = order.summary(found, rows)
    assert summary["layers"]["0"]["share"] == pytest.approx(mean["share"])
    assert summary["test_chains"] == len(rows) and summary["unmatched_pairs"] == 6 * len(rows) - summary["test_pairs"]


def test_a_tie_is_half_a_success():
    states = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    directions = np.array([[1.0, 0.0]])
    assert order.shares(states, [(0, 1), (1, 2), (2, 3)], directions) == pytest.approx((1 + 0.5 + 0) / 3)


def test_probes_see_training_chains_only():
    rows, found = rows_with(3.0)
    test = [index for index, chain in enumerate(found) if chain.part == "test"]
    generator = np.random.default_rng(0)
    states = generator.standard_normal((1, len(found) * graded.LEVELS, 12))
    states[0, :, 3] += 3.0 * np.tile(np.arange(graded.LEVELS), len(found))
    mirrored = states.reshape(1, len(found), graded.LEVELS, 12).copy()
    mirrored[0, test] *= -1  # the test chains the other way round: probes that saw them would follow
    other = order.rows_of(found, mirrored.reshape(states.shape), OrderPreservation(probes=8))
    np.testing.assert_allclose([row["share"] for row in other], [1 - row["share"] for row in rows])


def test_ridge_direction_solves_its_normal_equations():
    differences = np.random.default_rng(0).standard_normal((30, 5)) + np.array([2, 0, 0, 0, 0])
    direction = order.fit_direction(differences)
    gram = differences.T @ differences
    residual = gram @ direction + (order.RIDGE * np.trace(gram) / 5 + 1e-12) * direction - differences.sum(0)
    assert np.abs(residual).max() < 1e-9 and direction[0] > 4 * np.abs(direction[1:]).max()


def test_a_decoders_states_are_those_of_each_sentence_alone():
    model = zoo.tiny("llama")
    sentences = [[0, 5, 6], [0, 7, 8, 9], [0, 9, 4]]
    states = order.sentence_states(model, sentences)
    assert states.shape == (2, 3, zoo.WIDTH)
    for index, ids in enumerate(sentences):
        with torch.inference_mode():
            hidden = model.base_model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        np.testing.assert_allclose(
            states[:, index], np.stack([layer[0, -1] for layer in hidden[1:]]), rtol=1e-5, atol=1e-6
        )
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ConfigurationError, match="graded sentences is not a number"):
        order.sentence_states(model, sentences)


@pytest.mark.parametrize("front", [0, 2])
def test_an_encoders_states_are_means_over_each_sentences_own_tokens(front):
    model = zoo.tiny("t5")
    prefix = [11, 12][:front]
    sentences = [[*prefix, 5, 6, 1], [*prefix, 7, 8, 9, 1], [*prefix, 9, 4, 1]]
    states = order.sentence_states(model, sentences, front=front)
    assert states.shape == (2, 3, zoo.WIDTH)
    for index, ids in enumerate(sentences):
        with torch.inference_mode():
            hidden = model.encoder(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        own = np.stack([layer[0, front:-1].numpy().mean(0) for layer in hidden[1:]])
        np.testing.assert_allclose(states[:, index], own, rtol=1e-5, atol=1e-6)
    longer = order.sentence_states(model, [[*prefix, 5, 6, 1]], front=front)
    np.testing.assert_allclose(states[:, 0], longer[:, 0], rtol=1e-5, atol=1e-6)


def test_the_job_reads_an_encoder_behind_its_prefix(tmp_path):
    tokenizer = zoo.tiny_tokenizer()
    models.save_model(zoo.tiny("t5"), tokenizer, tmp_path / "model")
    found = {}
    for prefix in ("", "and it came: "):
        job = parse(OrderJob, {"order": {"axes": 2, "probes": 3}, "prefix": prefix})
        order_preservation(job, tmp_path / "model", tmp_path / "order.jsonl", tmp_path / "order.json")
        found[prefix] = read_rows(tmp_path / "order.jsonl", "order/1")
    assert {row["layer"] for row in found[""]} == {0, 1}
    first, second = ([row["pairs"] for row in rows] for rows in found.values())
    assert first == second, "a prefix makes no pair unequal in length"
    assert [row["share"] for row in found[""]] != [row["share"] for row in found["and it came: "]]


def test_job_writes_rows_that_repeat(tmp_path):
    models.save_model(zoo.tiny("gpt_neox"), zoo.tiny_tokenizer(), tmp_path / "model")
    job = parse(OrderJob, {"order": {"axes": 2, "probes": 3}})
    contents = []
    for run in ("a", "b"):
        order_preservation(job, tmp_path / "model", tmp_path / run / "order.jsonl", tmp_path / run / "order.json")
        contents.append((tmp_path / run / "order.jsonl").read_bytes())
    assert contents[0] == contents[1]
    rows = read_rows(tmp_path / "a" / "order.jsonl", "order/1")
    assert {row["layer"] for row in rows} == {0, 1}
    marker = read_json(tmp_path / "a" / "order.json")
    assert set(marker["result"]["layers"]) == {"0", "1"} and json.dumps(marker["settings"])


def test_unmatched_lengths_are_refused(tmp_path, monkeypatch):
    models.save_model(zoo.tiny("gpt_neox"), zoo.tiny_tokenizer(), tmp_path / "model")
    words = [[f"{'a' * (2 + level)}"] for level in range(4)]
    monkeypatch.setattr(graded, "AXES", {"size": words})
    monkeypatch.setattr(graded, "TEMPLATES", ["{topic} {word} z"] * 3)
    job = parse(OrderJob, {"order": {"axes": 1, "probes": 2}})
    with pytest.raises(ConfigurationError, match="no two graded sentences have the same number of tokens"):
        order_preservation(job, tmp_path / "model", tmp_path / "order.jsonl", tmp_path / "order.json")
