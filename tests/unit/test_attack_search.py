"""The search by itself: what lives on, what is remembered, what the budget forbids."""

from __future__ import annotations

from dataclasses import replace

import attack_zoo as az
import numpy as np
import pytest
from isotone.attacks import gcg, hotflip, run, transfer
from isotone.attacks.documents import Document
from isotone.attacks.gradient import GradientProposals
from isotone.attacks.objective import Ledger
from isotone.attacks.proposals import Flip
from isotone.attacks.query import RandomProposals
from isotone.attacks.registry import SPECS
from isotone.attacks.search import Plan, Position, State, search
from isotone.evaluation.journal import Journal

TEXT = Document("text", np.full(6, 9), np.arange(1, 5))


class Script:
    """Proposals by step and by the positions that have changed; remembers who asked."""

    def __init__(self, lines: dict[tuple[int, ...], list[Flip]]) -> None:
        self.lines, self.asked = lines, []

    def __call__(self, asking, ledgers):
        changed = [tuple(np.flatnonzero(position.state.ids != position.document.ids)) for position in asking]
        self.asked.append(sorted(changed))
        return [self.lines.get(places, []) for places in changed]


def test_a_beam_keeps_what_is_better_than_its_worst():
    rises = {(1, 1): 5.0, (2, 1): 3.0, (3, 1): 1.0, (3, 2): -3.0, (4, 1): 0.4}
    first = [Flip(1, 1), Flip(2, 1), Flip(3, 1)]
    script = Script({(): first, (1,): [Flip(3, 2)], (2,): [Flip(4, 1)]})
    [trace] = search(az.Additive(rises), [TEXT], script, Plan(flips=3, steps=3, beam=2))
    # J is the rise over the tokens that are left: 5/5, 3/5 and 1/5; then 2/4 and 3.4/4, of which 3.4/4 beats 3/5.
    assert script.asked == [[()], [(1,), (2,)], [(2, 4)]]
    assert [state.damage for state in trace.best] == pytest.approx([0.0, 1.0, 1.0, 1.0])
    narrow = Script(script.lines)
    search(az.Additive(rises), [TEXT], narrow, Plan(flips=3, steps=3))
    assert narrow.asked == [[()], [(1,)]]


def test_with_more_flips_allowed_the_best_is_never_less():
    script = Script({(): [Flip(2, 1)], (2,): [Flip(3, 1)]})
    [trace] = search(az.Additive({(2, 1): 4.0, (3, 1): -1.0}), [TEXT], script, Plan(flips=3, steps=3))
    assert [state.damage for state in trace.best] == pytest.approx([0.0, 0.8, 0.8, 0.8])
    assert [len(state.order) for state in trace.best] == [0, 1, 1, 1]
    assert trace.spent[0].forward_tokens < trace.spent[1].forward_tokens == trace.spent[3].forward_tokens
    assert trace.ledger.forward_tokens > trace.spent[3].forward_tokens  # the second flip was scored in vain


def test_a_right_prediction_of_the_sum_is_a_right_prediction_of_j():
    rises = {(1, 1): 4.0, (2, 1): 3.0}
    script = Script({(): [Flip(1, 1, 4.0)], (1,): [Flip(2, 1, 3.0)]})
    [trace] = search(az.Additive(rises), [TEXT], script, Plan(flips=2, steps=2))
    assert trace.best[2].predicted == pytest.approx([4 / 5, 7 / 4 - 4 / 5])
    assert trace.best[2].exact == pytest.approx(trace.best[2].predicted)
    assert trace.tried == [
        pytest.approx(pair) for pair in zip(trace.best[2].predicted, trace.best[2].exact, strict=True)
    ]


def test_a_remembered_flip_is_no_prediction():
    manifest, objective = az.manifest(3, shorten=0), az.objective()
    propose = GradientProposals(objective, manifest.vocabulary, 8)
    for trace in hotflip.greedy(objective, manifest.test, propose, flips=3):
        assert len(trace.tried) == len(trace.seen) < trace.ledger.candidates


def test_the_best_quarter_of_what_was_measured_is_tried_again():
    propose = GradientProposals(az.objective(), az.manifest(1).vocabulary, 8)
    ids = TEXT.ids.copy()
    ids[4] = 8
    seen = {(1, 5): 0.1, (2, 6): 0.3, (3, 7): 0.2, (4, 8): 0.4, (2, 9): 0.5}
    position = Position(TEXT, State(ids, [4], np.zeros(6), 0.4), np.zeros(6), np.array([1, 2, 3]), 1, 0, seen)
    found = propose._remembered(position)
    # Position 4 is closed, token 9 stands at position 2; gains are sums over the five tokens that are left.
    assert found == [Flip(2, 6, pytest.approx(1.5), True), Flip(3, 7, pytest.approx(1.0), True)]


def test_crossed_gradients_compare_the_source_with_itself():
    manifest, target, source = az.manifest(2, shorten=0), az.objective(), az.objective(seed=1)
    document = manifest.test[0]
    clean = {"target": target.scores(document.ids[None])[0], "source": source.scores(document.ids[None])[0]}

    def gains(under, **options):
        state = State(document.ids, [], clean[under], 0.0)
        position = Position(document, state, clean[under], document.eligible, 0, 0)
        propose = GradientProposals(source, manifest.vocabulary, 4, **options)
        [(_, gain)] = propose.tables([position], {document.name: Ledger()}, 3)
        return gain

    own = gains("source")
    np.testing.assert_array_equal(gains("target", clean={document.name: clean["source"]}), own)
    assert np.abs(gains("target") - own).max() > 0.1  # the losses of two models would be compared


def test_gcg_never_asks_beyond_its_budget():
    manifest, objective = az.manifest(3, shorten=0), az.objective()
    sampled = gcg.SampledProposals(GradientProposals(objective, manifest.vocabulary, 8), 16, 8, 0)
    asked = []

    def propose(asking, ledgers):
        asked.extend(asking)
        return sampled(asking, ledgers)

    gcg.gcg(objective, manifest.test, propose, flips=2, iterations=8)
    counts = [np.flatnonzero(position.state.ids != position.document.ids).tolist() for position in asked]
    assert {len(places) for places in counts} == {0, 1, 2}
    for position, places in zip(asked, counts, strict=True):
        assert position.open.tolist() == (places if len(places) == 2 else position.document.eligible.tolist())


def test_crossed_gradients_are_the_sources_and_scores_the_targets(monkeypatch):
    manifest = az.manifest(2, shorten=0)
    target, source = (az.context(az.objective(seed=seed), manifest) for seed in (0, 1))
    taken = []
    monkeypatch.setattr(target.objective, "slopes", None)  # calling it is an error
    slopes = source.objective.slopes
    monkeypatch.setattr(source.objective, "slopes", lambda *given: taken.append(1) or slopes(*given))
    rows = transfer.crossed(target, source, manifest.test)
    assert taken and [row["document"] for row in rows] == [document.name for document in manifest.test]
    for row, document in zip(rows, manifest.test, strict=True):
        assert row["clean_nll"] == pytest.approx(target.objective.scores(document.ids[None]).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "variant", "ceiling"), [("hotflip", "greedy", 0), ("hotflip", "greedy", 60), ("gcg", "gcg", 0)]
)
def test_a_fresh_start_takes_as_many_forwards_and_goes_elsewhere(name, variant, ceiling):
    manifest = az.manifest(2, shorten=0)
    context = az.context(az.objective(), manifest, hotflip={"ceiling": ceiling})
    first, again = (SPECS[name].search(replace(context, restart=restart), manifest.test)[variant] for restart in (0, 1))
    for one, other in zip(first, again, strict=True):
        length = context.objective.tokens(len(one.document.ids))
        spent = [trace.ledger.forward_tokens / length for trace in (one, other)]
        assert spent[0] <= spent[1] < spent[0] + 7 or ceiling  # whole rounds of 1 + 6 passes
        assert max(spent) <= max(ceiling, 16)
        assert ceiling or not np.array_equal(one.best[-1].ids, other.best[-1].ids)
        assert other.best[-1].damage > 0


@pytest.mark.parametrize("name", ["uat", "gcg"])
def test_a_fresh_start_of_a_trigger_has_restarts_of_its_own(name, tmp_path):
    manifest = az.manifest(2, shorten=0)
    context = az.context(az.objective(), manifest, gcg={"form": "universal"}, shared={"fresh_starts": 2})
    rows, _, about = run.run(name, context, manifest, Journal(tmp_path / "rows.jsonl", {}))
    restarts = {row["variant"]: row["restart"] for row in rows}
    assert restarts["trigger"] in (0, 1) and restarts["trigger~restart"] in (2, 3)
    assert sorted(found["restart"] for found in about["triggers"]) == [0, 1]
    triggers = {row["variant"]: [piece["token"] for piece in row["trigger"]] for row in rows}
    assert triggers["trigger"] != triggers["trigger~restart"]


def test_chance_is_keyed_by_document_rank_and_step():
    propose = RandomProposals(az.manifest(1).vocabulary, 5, seed=0)
    state = State(TEXT.ids, [], np.zeros(6), 0.0)

    def flips(name="text", step=0, rank=0):
        document = Document(name, TEXT.ids, TEXT.eligible)
        return propose([Position(document, state, np.zeros(6), TEXT.eligible, step, rank)], {})[0]

    draws = [flips(), flips(name="other"), flips(step=1), flips(rank=1)]
    assert flips() == draws[0] and all(draws[0] != other for other in draws[1:])
