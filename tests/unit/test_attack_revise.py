"""Revision: what is given back, what takes its place, what it costs, and when it ends."""

from __future__ import annotations

from dataclasses import replace

import attack_zoo as az
import numpy as np
import pytest
from isotone.attacks import hotflip, measure, revise
from isotone.attacks.documents import Document
from isotone.attacks.gradient import GradientProposals
from isotone.attacks.objective import Ledger
from isotone.attacks.search import Position, State, Trace

TEXT = Document("text", np.full(8, 9), np.arange(1, 7))


def greedy(objective, manifest, *, ceiling=0, count=4, flips=2, documents=None):
    propose = GradientProposals(objective, manifest.vocabulary, count)
    return hotflip.greedy(objective, documents or manifest.test, propose, flips=flips, ceiling=ceiling)


def test_it_never_loses_and_stays_in_its_budget_of_flips_and_passes(monkeypatch):
    monkeypatch.setattr(revise, "GAIN", -1.0)  # up to the ceiling
    manifest, objective = az.manifest(3, shorten=0), az.objective()
    before, after = greedy(objective, manifest), greedy(objective, manifest, ceiling=160)
    length = objective.tokens(20)
    assert any(new.best[-1].damage > old.best[-1].damage for old, new in zip(before, after, strict=True))
    for old, new in zip(before, after, strict=True):
        assert new.best[-1].damage >= old.best[-1].damage
        assert [state.damage for state in new.best[:-1]] == [state.damage for state in old.best[:-1]]
        assert (new.best[-1].ids != new.document.ids).sum() <= 2
        assert 160 - 9 < new.ledger.forward_tokens / length <= 160
        spent, damages = zip(*new.progress, strict=True)
        assert list(spent) == sorted(spent) and list(damages) == sorted(damages)
        assert sum(new.best[-1].exact) == pytest.approx(new.best[-1].damage, abs=1e-5)
        assert len(new.best[-1].exact) == len(new.best[-1].predicted)
        assert new.best[-1].damage == pytest.approx(measured(objective, new), abs=1e-5)


def measured(objective, trace) -> float:
    [row] = measure.rows(objective, [trace], attack="hotflip", variant="greedy", pieces=[str(i) for i in range(400)])
    return row["J"]


class Pair(az.Additive):
    """Two substitutions that are worth little alone and much together."""

    def scores(self, ids_BT):
        nll = super().scores(ids_BT)
        nll[(ids_BT[:, 2] == 1) & (ids_BT[:, 3] == 1), -1] += 8.0
        return nll


def test_what_is_given_back_makes_room_for_what_greedy_search_never_sees():
    vocabulary = replace(az.manifest(1).vocabulary, allowed=np.array([1, 2, 3]))
    objective = Pair({(1, 1): 3.0, (2, 1): 1.0, (3, 1): 0.9})
    found = {}
    for ceiling in (0, 500):
        propose = GradientProposals(objective, vocabulary, 100, per_position=100)
        [trace] = hotflip.greedy(objective, [TEXT], propose, flips=2, ceiling=ceiling)
        found[ceiling] = {flip: trace.best[-1].ids[flip] for flip in np.flatnonzero(trace.best[-1].ids != 9).tolist()}
    assert found == {0: {1: 1, 2: 1}, 500: {2: 1, 3: 1}}
    assert trace.best[-1].damage == pytest.approx(9.9 / 6)
    assert trace.gain == 0.0 and not trace.ceiling  # with nothing left to try it ends, and has converged
    assert trace.ledger.forward_tokens < 500 * objective.tokens(8)


def test_the_result_does_not_depend_on_company():
    manifest, objective = az.manifest(3, shorten=0), az.objective()
    together = greedy(objective, manifest, ceiling=100)
    for trace in together:
        [alone] = greedy(objective, manifest, ceiling=100, documents=[trace.document])
        assert np.array_equal(alone.best[-1].ids, trace.best[-1].ids) and alone.ledger == trace.ledger


def test_it_ends_where_a_doubling_gains_too_little_and_says_why(monkeypatch):
    manifest, objective = az.manifest(2, shorten=0), az.objective()
    length = objective.tokens(20)
    monkeypatch.setattr(revise, "GAIN", 1e9)  # nothing gains enough: two doublings, converged
    for trace in greedy(objective, manifest, ceiling=1000):
        assert 44 <= trace.ledger.forward_tokens / length < 44 + 9
        effort = measure.effort_of(trace, length, trace.best[-1].damage)
        assert effort["search"]["converged"] and not effort["search"]["ceiling"]
    monkeypatch.setattr(revise, "GAIN", -1.0)  # everything does: the ceiling ends it, not converged
    for trace in greedy(objective, manifest, ceiling=50):
        effort = measure.effort_of(trace, length, trace.best[-1].damage)
        assert effort["search"]["ceiling"] and not effort["search"]["converged"]
        passes = [point["forwards"] for point in effort["compute"]]
        assert passes == sorted(set(passes)) and passes[-1] == round(trace.ledger.forward_tokens / length)


def test_flips_take_turns():
    state = State(np.array([9, 1, 9, 2, 3, 9, 9, 9]), [4, 1, 3], np.zeros(8), 0.5)
    trace = Trace(TEXT, np.zeros(8), [state], [Ledger()], Ledger())
    task = revise.Task(trace, state, 0, 0.0)
    assert [task.turn() for _ in range(4)] == [4, 1, 3, 4]
    task.state = State(np.array([9, 1, 2, 9, 3, 9, 9, 9]), [4, 1, 2], np.zeros(8), 0.6)
    assert [task.turn() for _ in range(4)] == [1, 4, 1, 2]  # what is left of the round, then a new one


def test_errors_that_were_measured_correct_the_estimates():
    propose = GradientProposals(az.objective(), az.manifest(1).vocabulary, 2)
    state = State(TEXT.ids, [], np.zeros(8), 0.0)
    trace = Trace(TEXT, np.zeros(8), [state], [Ledger()], Ledger())
    task = revise.Task(trace, state, 0, 0.0, errors={2: [4.0, 2.0], 3: [-1.0]})
    np.testing.assert_allclose(task.error(np.array([1, 2, 3])), [0.0, 6 / 4, -1 / 3])
    position = Position(
        TEXT, state, np.zeros(8), np.array([1, 2]), 0, 0, {(2, int(propose.vocabulary.allowed[0])): 0.1}
    )
    table = np.array([[0, 1], [0, 1]]), np.array([[1.0, 0.9], [0.5, 0.2]])
    flips = revise.Revision(propose, 0, count=2, memory=100).propose(task, position, table)
    # Position 2 is worth 1.5 more than it looks; its first token was tried, and one token a position is enough here.
    allowed = propose.vocabulary.allowed
    assert [(flip.position, flip.token, flip.gain) for flip in flips] == [(2, allowed[1], 0.2), (1, allowed[0], 1.0)]
