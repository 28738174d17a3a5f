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
        assert all(after.damage >= first.damage for after, first in zip(new.best, old.best, strict=True))
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
    # each flip has had its turn once more, not twelve times
    assert trace.ledger.forward_tokens < 60 * objective.tokens(8)


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
        searched = trace.progress[3][0] / length  # two searches of two flips: 1 + 2 (1 + 4) + 2 (1 + 32) passes
        assert searched == 77 and 4 * searched <= trace.ledger.forward_tokens / length < 4 * searched + 9
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


def proposed(seen=(), errors=None, tokenizer=None):
    """What a round of four proposes once the flip at position 3 to the first allowed token is given back."""
    propose = GradientProposals(az.objective(), az.manifest(1).vocabulary, 4, tokenizer)
    allowed = propose.vocabulary.allowed
    before, hole = TEXT.ids.copy(), State(TEXT.ids, [], np.zeros(8), 0.0)
    before[3] = allowed[0]
    state = State(before, [3], np.zeros(8), 0.5)
    task = revise.Task(Trace(TEXT, np.zeros(8), [state], [Ledger()], Ledger()), state, 0, 0.0, errors=errors or {})
    known = {(place, int(allowed[token])): gain for place, token, gain in seen}
    position = Position(TEXT, hole, np.zeros(8), np.array([1, 2, 3]), 0, 0, known)
    table = np.array([[0, 1, 2]] * 3), np.array([[1.0, 0.9, 0.8], [0.5, 0.2, 0.1], [0.4, 0.3, 0.05]])
    flips = revise.Revision(propose, 0, count=4, memory=4).propose(task, position, table)
    return [(flip.position, allowed.tolist().index(flip.token), flip.gain, flip.remembered) for flip in flips], task


def test_half_of_a_round_stays_where_the_flip_was_given_back():
    flips, _ = proposed()
    # Not the token that stood there; one token at each other position.
    assert flips == [(3, 1, 0.3, False), (3, 2, 0.05, False), (1, 0, 1.0, False), (2, 0, 0.5, False)]


def test_what_was_measured_comes_again_but_not_what_stood_there():
    flips, _ = proposed(seen=[(3, 0, 9.0), (1, 0, 0.2), (2, 0, 0.1)])
    assert flips == [(1, 0, pytest.approx(0.2 * 8), True), (3, 1, 0.3, False), (3, 2, 0.05, False), (1, 1, 0.9, False)]


def test_errors_that_were_measured_correct_the_estimates():
    flips, task = proposed(
        seen=[(2, 0, -0.1), (3, 0, -9.0), (3, 1, -9.0), (3, 2, -9.0)], errors={2: [4.0, 2.0], 3: [-1.0]}
    )
    np.testing.assert_allclose(task.error(np.array([1, 2, 3])), [0.0, 6 / 4, -1 / 3])
    # Position 2 is worth 1.5 more than it looks; its first token was tried, and nothing is left at position 3.
    assert flips[1:] == [(2, 1, 0.2, False), (1, 0, 1.0, False)] and flips[0] == (2, 0, pytest.approx(-0.8), True)


def test_a_ceiling_pays_for_a_wider_search_first():
    manifest, objective = az.manifest(2, shorten=0), az.objective()
    length = objective.tokens(20)
    for ceiling, wide in ((40, 5), (100, 12), (1000, 32)):
        for trace in greedy(objective, manifest, ceiling=ceiling):
            spent = [tokens / length for tokens, _ in trace.progress]
            assert spent[:4] == [6, 11, 12 + wide, 13 + 2 * wide]
    for trace in greedy(objective, manifest, ceiling=32):  # a quarter of it is no wider than what was searched
        assert trace.progress[2][0] / length == 11 + 1 + 8  # a round of revision follows


def test_a_ceiling_that_leaves_no_room_is_one_and_a_text_that_nothing_harms_has_converged():
    manifest, objective = az.manifest(2, shorten=0), az.objective()
    for trace in greedy(objective, manifest, ceiling=12):  # 11 passes were spent; a round would take 9
        assert trace.ceiling and trace.gain is None
        assert measure.effort_of(trace, 20, 0.1)["search"] == {
            "forwards": 11, "ceiling": True, "converged": False, "last_gain": None
        }  # fmt: skip
    vocabulary = replace(az.manifest(1).vocabulary, allowed=np.array([1, 2, 3]))
    unharmed = az.Additive({})
    [trace] = hotflip.greedy(unharmed, [TEXT], GradientProposals(unharmed, vocabulary, 4), flips=2, ceiling=100)
    assert not trace.ceiling and trace.gain == 0.0


def test_the_text_that_is_revised_never_gets_worse(monkeypatch):
    """The best text is kept anyway; this is about the one that the next round begins with."""
    manifest, objective = az.manifest(3, shorten=0), az.objective()
    stands: dict[str, list[float]] = {}
    real = revise.Revision._accept

    def watched(self, task, hole, children):
        taken = real(self, task, hole, children)
        stands.setdefault(task.trace.document.name, [task.trace.best[-1].damage]).append(task.state.damage)
        return taken

    monkeypatch.setattr(revise.Revision, "_accept", watched)
    monkeypatch.setattr(revise, "GAIN", -1.0)
    greedy(objective, manifest, ceiling=200)
    assert len(stands) == 3 and all(len(values) > 10 for values in stands.values())
    assert all(values == sorted(values) for values in stands.values())
    assert any(values[-1] > values[1] for values in stands.values())  # and it does get better
