"""The search of a universal trigger: what it compares, accepts and pays."""

from __future__ import annotations

import attack_zoo as az
import numpy as np
import pytest
import torch
from isotone.attacks.trigger import Slots, TriggerObjective, search_trigger
from isotone.attacks.universal import trigger_rows

LENGTH = 3


class Recorder:
    """The objective of a trigger; remembers which texts each gradient was taken over."""

    def __init__(self) -> None:
        self.objective, self.batches = az.objective(), []
        self.documents = az.documents(8)
        self.target = TriggerObjective(self.objective, self.documents, LENGTH)
        self.slopes, self.target.slopes = self.target.slopes, self._slopes

    def _slopes(self, trigger, which):
        self.batches.append(tuple(which))
        return self.slopes(trigger, which)

    def search(self, propose, iterations: int = 6):
        tokens = az.vocabulary(self.documents)
        return search_trigger(self.target, propose, tokens, restart=0, iterations=iterations, batch=2, seed=3)


def slots(recorder: Recorder, count: int = 6) -> Slots:
    return Slots(recorder.objective.scorer.embedding.weight.detach(), az.vocabulary(recorder.documents), count)


def test_the_damage_of_a_trigger_is_a_rise_over_the_same_tokens_alone():
    recorder = Recorder()
    triggers = np.array([[200, 201, 202], [203, 204, 205]])
    found = recorder.target.rises(triggers, range(8))
    for trigger, rise in zip(triggers, found, strict=True):
        expected = []
        for document in recorder.documents:
            behind = recorder.objective.scores(np.concatenate([trigger, document.ids])[None])[0, LENGTH:]
            expected.append((behind - recorder.objective.scores(document.ids[None])[0]).mean())
        assert rise == pytest.approx(np.mean(expected), abs=1e-6)
    damage, grad = recorder.slopes(triggers[0], [1, 4])
    assert damage == pytest.approx(recorder.target.rises(triggers[:1], [1, 4])[0], abs=1e-6)
    assert grad.shape == (LENGTH, recorder.objective.scorer.embedding.weight.shape[1])


def test_each_step_sees_other_texts_and_the_damage_on_the_fixed_slice_never_falls():
    recorder = Recorder()
    found = recorder.search(slots(recorder))
    assert len(recorder.batches) == 6 and len(set(recorder.batches)) > 3
    damages = [entry["J"] for entry in found["curve"]]
    assert damages == sorted(damages) and damages[-1] > damages[0]
    fixed = [entry["trigger"] for entry in found["curve"]]
    assert found["trigger"] == fixed[-1] and len(set(map(tuple, fixed))) == len(set(damages))


def test_a_variant_that_is_worse_on_the_batch_is_not_confirmed():
    recorder = Recorder()
    start = recorder.search(slots(recorder), iterations=0)

    options = np.random.default_rng(0).choice(az.vocabulary(recorder.documents).allowed, size=(300, LENGTH))
    aside = TriggerObjective(recorder.objective, recorder.documents, LENGTH)  # its ledger is not looked at

    def worst(trigger, grad, step, generator):
        rises = aside.rises(np.concatenate([trigger[None], options]), recorder.batches[-1])
        assert rises[1:].min() < rises[0]
        return options[[rises[1:].argmin()] * 2]

    before = recorder.target.ledger.forward_tokens
    found = recorder.search(worst)
    tokens = recorder.objective.tokens(20 + LENGTH)
    # The start on the slice of 8 texts; then a gradient and two variants on 2 texts at each of 6 steps, nothing else.
    assert recorder.target.ledger.forward_tokens - before == tokens * (8 + 6 * (2 + 2 * 2))
    assert found["trigger"] == start["trigger"] and found["ledger"]["candidates"] == 12


def test_proposals_change_at_least_one_slot():
    recorder = Recorder()
    propose, generator = slots(recorder, 12), np.random.default_rng(0)
    trigger = az.vocabulary(recorder.documents).allowed[[5, 6, 7]]
    embedding = recorder.objective.scorer.embedding.weight.detach()
    # A gradient that likes best what stands there already.
    grad = 100 * embedding[torch.from_numpy(trigger)]
    for variant in propose(trigger, grad, 0, generator):
        assert (variant != trigger).any()
    single = propose(trigger, grad, 0, generator)[-1]
    assert (single != trigger).sum() == 1


@pytest.mark.parametrize("prefix", [0, None])
def test_the_row_of_a_trigger_is_what_the_losses_say(prefix):
    objective, [document] = az.objective(prefix=prefix), az.documents(1)
    ledger = {"forward_tokens": 90, "backward_tokens": 9, "candidates": 4}
    [row] = trigger_rows(
        objective,
        [document],
        [200, 201, 202],
        attack="uat",
        variant="trigger",
        pieces=[""] * 400,
        restart=1,
        ledger=ledger,
    )
    clean = objective.scores(document.ids[None])[0]
    full = objective.scores(np.concatenate([[200, 201, 202], document.ids])[None])[0]
    first = 0 if prefix == 0 else 1  # without a prefix the first token of each text is not scored
    assert row["tokens"] == 20 - first and row["ledger"] == ledger
    assert row["J"] == pytest.approx((full[LENGTH:] - clean)[first:].mean(), abs=1e-6)
    assert row["self"] == pytest.approx(full[first:LENGTH].mean(), abs=1e-6)
    assert row["total"] == pytest.approx(full[first:].mean() - clean[first:].mean(), abs=1e-6)
    assert row["published_degradation"] == pytest.approx(row["total"] / clean[first:].mean(), abs=1e-6)
