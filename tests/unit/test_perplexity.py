import math

import models_zoo as zoo
import numpy as np
import pytest
import torch
from isotone.errors import ConfigurationError
from isotone.evaluation import perplexity
from isotone.evaluation.scoring import Scorer

LENGTH = 32


def text(length, seed=0):
    return zoo.random_ids(1, length, seed=seed)[0].numpy()


def nll_rows(model, inputs):
    """Loss of inputs[i + 1] given what stands in front, by plain transformers."""
    inputs = torch.tensor([list(inputs)])
    logits = model(input_ids=inputs).logits[0, :-1].double()
    return -logits.log_softmax(-1)[torch.arange(inputs.shape[1] - 1), inputs[0, 1:]]


def total(model, windows):
    return perplexity.score(Scorer(model, 0), ["a"], [windows])[0]


@pytest.mark.parametrize("length", [1, 5, LENGTH, LENGTH + 1, 20 * LENGTH + 7])
def test_rolling_agrees_with_lm_eval(length):
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = zoo.tiny("gpt_neox", context=LENGTH), zoo.tiny_tokenizer()
    ids = text(length)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=LENGTH)
    harness.tok_encode = lambda string, **_: ids.tolist()
    instance = Instance("loglikelihood_rolling", {}, ("any text",), 0)
    expected = -harness.loglikelihood_rolling([instance], disable_tqdm=True)[0]
    tokens, nll = total(model, perplexity.rolling(ids, LENGTH, 0))
    assert tokens == length
    assert nll == pytest.approx(expected, rel=1e-6)


def test_rolling_without_prefix_leaves_the_first_token_out():
    windows = perplexity.rolling(text(70), LENGTH, None)
    assert [len(window.targets) for window in windows] == [32, 32, 5]
    assert all(len(window.inputs) == LENGTH for window in windows)


@pytest.mark.parametrize(("length", "stride"), [(20, 8), (100, 8), (100, 32), (65, 16)])
def test_strided_agrees_with_a_plain_loop(length, stride):
    model, ids = zoo.tiny("gpt_neox"), text(length)
    expected, count, done = 0.0, 0, 0
    for begin in range(0, length, stride):
        end = min(begin + LENGTH, length)
        labels = torch.tensor(ids[begin:end])[None].clone()
        labels[:, : -(end - done)] = -100
        scored = int((labels[:, 1:] != -100).sum())
        if scored:
            logits = model(input_ids=torch.tensor(ids[begin:end])[None]).logits[0, :-1].double().detach()
            expected += float(torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum"))
        count, done = count + scored, end
        if end == length:
            break
    tokens, nll = total(model, perplexity.strided(ids, LENGTH, stride))
    assert tokens == count
    assert nll == pytest.approx(expected, rel=1e-6)


def test_llamacpp_scores_the_second_half_of_each_chunk():
    model, ids = zoo.tiny("gpt_neox"), text(3 * LENGTH + 5)
    stream = [0, *ids.tolist()]
    expected, count = 0.0, 0
    for chunk in range(len(stream) // LENGTH):
        part = [0, *stream[chunk * LENGTH + 1 : (chunk + 1) * LENGTH]]
        rows = nll_rows(model, part)[LENGTH // 2 :]
        expected, count = expected + float(rows.sum()), count + len(rows)
    tokens, nll = total(model, perplexity.llamacpp(ids, LENGTH, 0))
    assert tokens == count == 3 * (LENGTH // 2 - 1)
    assert nll == pytest.approx(expected, rel=1e-6)
    assert perplexity.llamacpp(ids[: LENGTH - 2], LENGTH, 0) == []


def test_document_is_what_attacks_score():
    model, ids = zoo.tiny("gpt_neox"), text(50)
    clean = Scorer(model, 0).texts(torch.tensor(ids[:24])[None])[0].double()
    tokens, nll = total(model, perplexity.document(ids, 24, 0))
    assert tokens == 24 and nll == pytest.approx(float(clean.sum()), rel=1e-6)
    assert perplexity.document(ids[:15], 24, 0) == [] and len(perplexity.document(ids[:16], 24, 0)) == 1


@pytest.mark.parametrize("protocol", ["rolling", "strided", "llamacpp", "document"])
def test_each_protocol_is_found_by_name(protocol):
    windows = perplexity.windows_of(protocol, text(80), length=LENGTH, stride=8, window=24, prefix=0)
    assert (
        sum(len(window.targets) for window in windows)
        == {"rolling": 80, "strided": 79, "llamacpp": 30, "document": 24}[protocol]
    )


def rows(*sums, excluded=0):
    found = [
        {"tokens": tokens, "nll": nll, "bytes": 4 * tokens, "words": tokens // 2, "excluded": False}
        for tokens, nll in sums
    ]
    return found + [{"tokens": 0, "nll": 0.0, "bytes": 9, "words": 1, "excluded": True}] * excluded


def test_summary_is_a_ratio_of_sums_with_units():
    found = perplexity.summary(rows((100, 200.0), (10, 50.0), excluded=2), "rolling")
    assert found["nats_per_token"] == pytest.approx(250 / 110)
    assert found["nats_per_token"] != pytest.approx((2.0 + 5.0) / 2)  # the mean of means is another number
    assert found["token_perplexity"] == pytest.approx(math.exp(250 / 110))
    assert found["bits_per_byte"] == pytest.approx(250 / math.log(2) / 440)
    assert found["word_perplexity"] == pytest.approx(math.exp(250 / 55))
    assert (found["documents"], found["excluded"], found["tokens"]) == (2, 2, 110)
    partial = perplexity.summary(rows((100, 200.0)), "strided")
    assert partial["bits_per_byte"] is None and partial["word_perplexity"] is None
    assert perplexity.summary(rows((1, 800.0)), "document")["token_perplexity"] is None


def test_nothing_scored_and_nan_are_errors_with_names():
    with pytest.raises(ConfigurationError, match="llamacpp scored none of 3 documents"):
        perplexity.summary(rows(excluded=3), "llamacpp")
    model = zoo.tiny("gpt_neox")
    with torch.no_grad():
        next(model.parameters())[7] = math.nan
    ids = np.array([3, 7, 5, 6])
    with pytest.raises(ConfigurationError, match='Document "broken" has a loss that is not a number'):
        perplexity.score(Scorer(model, 0), ["broken"], [perplexity.rolling(ids, LENGTH, 0)])
