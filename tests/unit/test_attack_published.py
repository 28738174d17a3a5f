"""The published study's form of HotFlip for T5, against its definition written out."""

import attack_zoo as az
import numpy as np
import pytest
from isotone.attacks import hotflip, measure
from isotone.attacks.objective import Ledger, PairObjective, TextObjective
from isotone.attacks.published import SUCCESS, SUCCESS_PAIRS
from isotone.attacks.search import State, Trace


def row_of(objective, document, ids, order):
    clean = objective.scores(document.ids[None])[0]
    states = [State(document.ids, [], clean, 0.0), State(ids, order, clean, 0.0)]
    [row] = measure.rows(
        objective,
        [Trace(document, clean, states, [Ledger()] * 2, Ledger())],
        attack="hotflip",
        variant="x",
        pieces=["?"] * 320,
    )
    return row


def by_hand(objective, manifest, document, flips):
    """The K eligible positions with the longest gradient, in each the allowed token that climbs it most."""
    ids_BT = document.ids[None]
    _, grad_BTD = objective.slopes(ids_BT, np.ones(ids_BT.shape))
    grad_TD = grad_BTD[0].double().numpy()
    table_VD = objective.scorer.embedding.weight.detach().double().numpy()
    places = sorted(document.eligible, key=lambda place: -np.linalg.norm(grad_TD[place]))[:flips]
    changed = document.ids.copy()
    for place in places:
        gains = table_VD[manifest.vocabulary.allowed] @ grad_TD[place]
        gains[manifest.vocabulary.allowed == document.ids[place]] = -np.inf
        changed[place] = manifest.vocabulary.allowed[gains.argmax()]
    return places, changed


def test_published_flips_the_positions_with_the_largest_gradient():
    objective, manifest = az.objective(), az.manifest(6)
    context = az.context(objective, manifest, hotflip={"published": True, "iterative": False, "flips": 3})
    for documents in ([document] for document in manifest.test):
        found = hotflip.attack(context, documents)
        assert list(found) == ["one_shot", "published"]
        places, changed = by_hand(objective, manifest, documents[0], 3)
        final = found["published"][0].best[-1]
        assert final.order == places
        np.testing.assert_array_equal(final.ids, changed)
        assert len(found["published"][0].best) == 4


def test_published_and_one_shot_are_two_attacks():
    objective, manifest = az.objective(), az.manifest(6)
    context = az.context(objective, manifest, hotflip={"published": True, "iterative": False})
    forms = hotflip.attack(context, [document for document in manifest.test if len(document.ids) == 20])
    orders = [[trace.best[-1].order for trace in traces] for traces in forms.values()]
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("changes", "variants", "primary"),
    [
        ({}, ["one_shot", "greedy"], "greedy"),
        ({"published": True}, ["one_shot", "published", "greedy"], "greedy"),
        ({"published": True, "one_shot": False, "iterative": False}, ["published"], "published"),
    ],
)
def test_the_form_is_asked_for(changes, variants, primary):
    settings = hotflip.HotFlip(**changes)
    assert hotflip.SPEC.variants(settings) == variants and hotflip.SPEC.primary(settings) == primary


def test_thresholds_are_those_of_the_paper_and_its_code():
    assert (SUCCESS, SUCCESS_PAIRS) == (0.15, 0.10)
    assert (TextObjective.success, PairObjective.success) == (SUCCESS, SUCCESS_PAIRS)


@pytest.mark.parametrize(("rise", "text", "pair"), [(2.3, False, False), (2.5, False, True), (3.7, True, True)])
def test_a_pair_is_broken_by_a_smaller_rise_than_a_text(rise, text, pair):
    """The clean sum of the 12 tokens is 24 nats, of which 10 % are 2.4 and 15 % are 3.6."""

    class Paired(az.Additive):
        success = PairObjective.success

    [document] = az.documents(1, length=12)
    ids = document.ids.copy()
    ids[3] = 200
    for kind, expected in ((az.Additive, text), (Paired, pair)):
        assert row_of(kind({(3, 200): rise}), document, ids, [3])["published_success"] is expected
