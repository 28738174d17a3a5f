"""A row of an attack against numbers computed by hand from the model's own logits."""

from __future__ import annotations

import attack_zoo as az
import numpy as np
import pytest
import torch
from isotone.attacks import measure
from isotone.attacks.objective import Ledger, check_numbers, damage
from isotone.attacks.search import State, Trace
from isotone.errors import ConfigurationError


def log_probabilities(model, ids: np.ndarray) -> np.ndarray:
    """Of the next token behind the prefix 0 and each token but the last: ``[T, V]``."""
    inputs = torch.tensor([[0, *ids[:-1].tolist()]])
    return model(input_ids=inputs).logits[0].double().log_softmax(-1).detach().numpy()


def row_of(objective, document, ids, order) -> dict:
    start, final = State(document.ids, [], np.zeros(0), 0.0), State(ids, order, np.zeros(0), 0.0)
    spent = [Ledger(7), Ledger(30)]
    trace = Trace(document, np.zeros(0), [start, final], spent, Ledger(90, 9, 4))
    [row] = measure.rows(objective, [trace], attack="hotflip", variant="greedy", pieces=[str(i) for i in range(400)])
    return row


def test_a_row_is_what_the_logits_say():
    objective = az.objective()
    [document] = az.documents(1, length=24)
    ids = document.ids.copy()
    ids[[5, 11]] = [200, 201]
    row = row_of(objective, document, ids, [11, 8, 5])  # position 8 changed and changed back
    before, after = (log_probabilities(objective.scorer.model, text) for text in (document.ids, ids))
    places = np.arange(24)
    clean, nll = -before[places, document.ids], -after[places, ids]
    kept = ids == document.ids
    assert row["clean_nll"] == pytest.approx(clean.mean(), rel=1e-5)
    for name, mask in (("J", kept), ("self", ~kept), ("total", kept | True)):
        assert row[name] == pytest.approx((nll - clean)[mask].mean(), rel=1e-4, abs=1e-6)
        assert row["curve"][1][name] == row[name] and row["curve"][0][name] == 0
    assert row["self_nll"] == pytest.approx(nll[~kept].mean(), rel=1e-5)
    assert row["kl"] == pytest.approx((np.exp(before) * (before - after)).sum(-1)[kept].mean(), rel=1e-3, abs=1e-7)
    assert row["top1_agreement"] == pytest.approx((before.argmax(-1) == after.argmax(-1))[kept].mean())
    for name, log, text in (("clean_accuracy", before, document.ids), ("accuracy", after, ids)):
        assert row[name] == pytest.approx((log.argmax(-1) == text)[kept].mean())
    assert row["window"] == 24 and "calibrated" not in row
    assert row["published_degradation"] == pytest.approx((nll - clean).mean() / clean.mean(), rel=1e-4)
    assert [(flip["position"], flip["old"], flip["new"]) for flip in row["flips"]] == [
        (11, document.ids[11], 201),
        (5, document.ids[5], 200),
    ]
    assert [point["forward_tokens"] for point in row["curve"]] == [7, 30] and row["ledger"]["forward_tokens"] == 90


@pytest.mark.parametrize("prefix", [0, None])
def test_the_recalibrated_model_is_scored_on_the_same_text(prefix):
    heat, objective = 1.7, az.objective(prefix=prefix)
    hot = az.TextObjective(objective.scorer, temperature=heat)
    [document] = az.documents(1, length=24)
    ids = document.ids.copy()
    ids[[5, 11]] = [200, 201]
    plain, row = row_of(objective, document, ids, [11, 5]), row_of(hot, document, ids, [11, 5])
    assert {key: value for key, value in row.items() if key != "calibrated"} == plain
    start = 0 if prefix == 0 else 1
    losses = []
    for text in (document.ids, ids):
        inputs = torch.tensor([[*([] if start else [0]), *text[:-1].tolist()]])
        logits = hot.scorer.model(input_ids=inputs).logits[0].double().detach() / heat
        losses.append(-logits.log_softmax(-1).numpy()[np.arange(24 - start), text[start:]])
    clean, nll = losses
    kept = (ids == document.ids)[start:]
    found = row["calibrated"]
    assert found["temperature"] == heat and found["J"] != pytest.approx(plain["J"], abs=1e-4)
    assert found["clean_nll"] == pytest.approx(clean.mean(), rel=1e-5)
    assert found["J"] == pytest.approx((nll - clean)[kept].mean(), abs=1e-6)
    behind = sum(part["J"] * part["tokens"] for part in found["distance"])
    assert behind == pytest.approx((nll - clean)[kept & (np.arange(24)[start:] > 5)].sum(), abs=1e-5)
    assert [(part["lo"], part["hi"]) for part in found["distance"]][:4] == [(1, 1), (2, 2), (3, 3), (4, 5)]


@pytest.mark.parametrize(("rise", "success"), [(0.9, False), (3.5, False), (3.7, True)])
def test_the_published_success_is_a_relative_rise_above_15_percent(rise, success):
    [document] = az.documents(1, length=12)
    ids = document.ids.copy()
    ids[3] = 200
    row = row_of(az.Additive({(3, 200): rise}), document, ids, [3])  # the clean sum is 24 nats, of which 15 % are 3.6
    assert row["published_success"] is success


def test_a_first_token_that_is_not_scored_counts_nowhere():
    objective = az.objective(prefix=None)
    [document] = az.documents(1, length=12)
    ids = document.ids.copy()
    ids[4] = 200
    row = row_of(objective, document, ids, [4])
    nll, clean = (objective.scores(text[None])[0] for text in (ids, document.ids))
    kept = np.delete(np.arange(12), [0, 4])
    assert row["tokens"] == 11 and row["J"] == pytest.approx((nll - clean)[kept].mean(), abs=1e-6)
    assert damage(nll[None], clean[None], objective.kept(ids, document.ids)[None])[0] == pytest.approx(row["J"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_no_number_names_its_document(value):
    nll = np.ones((3, 4))
    check_numbers(nll, ["a", "b", "c"])
    nll[1, 2] = value
    with pytest.raises(ConfigurationError, match='"b" has a loss that is not a number'):
        check_numbers(nll, ["a", "b", "c"])
