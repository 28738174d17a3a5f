"""Vectors instead of tokens: where they may go, what they bound, and what a row says."""

from __future__ import annotations

import attack_zoo as az
import numpy as np
import pytest
import torch
from isotone.attacks import soft
from isotone.errors import ConfigurationError
from isotone.evaluation.vectors import compare, losses_and_slopes, vectors_of
from isotone.models import token_vectors
from isotone.records import write_rows
from isotone.reporting.evidence.rows import read_attack
from synthetic_study import study_settings

FORMS = ["ball", "prefix"]


def searched(form, *, prefix=0, **settings):
    """A context, its documents (equal in length), and what a form finds."""
    manifest = az.manifest(3, shorten=0)
    context = az.context(
        az.objective(prefix=prefix), manifest, soft={"flips": 2, "length": 2, "iterations": 6} | settings
    )
    ids_BT = np.stack([document.ids for document in manifest.test])
    clean_BT = context.objective.scores(ids_BT)
    return context, manifest.test, ids_BT, clean_BT, soft.FORMS[form](context, manifest.test, ids_BT, clean_BT)


@pytest.mark.parametrize("prefix", [0, None])
def test_vectors_of_tokens_give_the_losses_and_slopes_of_the_tokens(prefix):
    objective = az.objective(prefix=prefix)
    ids_BT = np.stack([document.ids for document in az.documents(3)])
    kept_BT = objective.kept(ids_BT, ids_BT) & (np.arange(ids_BT.shape[1]) % 3 > 0)
    vectors_BSD = vectors_of(objective.scorer, ids_BT)
    nll_BT, grad_BSD = losses_and_slopes(objective.scorer, vectors_BSD, ids_BT, kept_BT)
    expected_BT, slope_BTD = objective.slopes(ids_BT, kept_BT.astype(float))
    np.testing.assert_allclose(nll_BT, expected_BT, atol=1e-6)
    text_BSD = grad_BSD[:, 1:] if prefix is not None else grad_BSD
    np.testing.assert_allclose(text_BSD, slope_BTD[:, :-1], atol=1e-6)
    changed = ids_BT[0].copy()
    changed[5] = (changed[5] + 1) % 300
    found = compare(objective.scorer, ids_BT[0], vectors_of(objective.scorer, changed[None])[0])
    other = objective.scorer.compare(torch.from_numpy(ids_BT[0]), torch.from_numpy(changed))
    elsewhere = np.arange(len(changed)) != 5  # there the target differs
    np.testing.assert_allclose(found.kl, other.kl, atol=1e-6)
    np.testing.assert_allclose(found.nll_after[elsewhere], other.nll_after[elsewhere], atol=1e-5)


def test_the_ball_holds_its_radius_and_moves_open_positions_only():
    context, documents, ids_BT, _clean_BT, best = searched("ball", radius=0.5)
    radius = 0.5 * 2**0.5 * soft.token_distance(context)
    start_BSD = vectors_of(context.objective.scorer, ids_BT)
    for row, document in enumerate(documents):
        moved_SD = best.vectors[row] - start_BSD[row]
        assert 0.99 * radius < float(moved_SD.norm()) <= 1.0001 * radius  # the loss still rises at the edge
        closed = np.setdiff1d(np.arange(len(moved_SD)), document.eligible + 1)
        assert len(closed) >= 2 and not moved_SD[closed].any()
        assert best.damage[row] > 0


def test_the_radius_is_the_distance_of_two_tokens():
    context, *_ = searched("ball", iterations=1)
    vectors_AD = token_vectors(context.objective.scorer.embedding)[context.vocabulary.allowed]
    apart = torch.pdist(vectors_AD).median()
    assert soft.token_distance(context) == pytest.approx(float(apart), rel=0.02)


def test_vectors_in_front_stay_as_long_as_a_token_can_be_and_the_text_stands_still():
    context, documents, ids_BT, _clean_BT, best = searched("prefix", iterations=12)
    table_VD = token_vectors(context.objective.scorer.embedding)
    longest = float(table_VD[context.vocabulary.allowed].norm(dim=-1).max())
    start_BSD = vectors_of(context.objective.scorer, ids_BT)
    for row in range(len(documents)):
        front_LD = best.vectors[row][1:3]
        assert best.vectors[row].shape[0] == start_BSD.shape[1] + 2
        assert float(front_LD.norm(dim=-1).max()) <= 1.0001 * longest
        assert torch.equal(best.vectors[row][3:], start_BSD[row, 1:]) and torch.equal(
            best.vectors[row][0], start_BSD[row, 0]
        )
    one_step = searched("prefix", iterations=1)[4]
    assert np.mean(best.damage) > np.mean(one_step.damage)


def test_vectors_in_front_do_not_make_a_first_token_a_target():
    """Without a prefix token nothing predicts it, whatever stands in front of it in an attack."""
    context, _, ids_BT, _, best = searched("prefix", prefix=None)
    kept_BT = context.objective.kept(ids_BT, ids_BT)
    nll_BT, _ = losses_and_slopes(context.objective.scorer, torch.stack(best.vectors), ids_BT, kept_BT)
    assert not nll_BT[:, 0].any() and (nll_BT[:, 1:] > 0).all()
    assert best.vectors[0].shape[0] == ids_BT.shape[1] - 1 + 2


@pytest.mark.parametrize("form", FORMS)
def test_the_best_point_is_kept_and_no_text_depends_on_another(form):
    context, documents, ids_BT, clean_BT, best = searched(form)
    kept = context.objective.kept(ids_BT[0], ids_BT[0])
    for row in range(len(documents)):
        again, _ = losses_and_slopes(context.objective.scorer, best.vectors[row][None], ids_BT[row][None], kept[None])
        assert best.damage[row] == pytest.approx(float((again[0] - clean_BT[row])[kept].mean()), abs=1e-6)
        part = slice(row, row + 1)
        alone = soft.FORMS[form](context, documents[part], ids_BT[part], clean_BT[part])
        assert alone.damage[0] == pytest.approx(best.damage[row], abs=1e-5)
    more = searched(form, iterations=24)[4]
    assert np.mean(more.damage) > 0.9 * np.mean(best.damage)


def test_a_worse_step_is_not_kept():
    """Steps far beyond the ball's other side: the last point is no better than the best."""
    context, _documents, ids_BT, clean_BT, _best = searched("ball", iterations=1)
    start_BSD = vectors_of(context.objective.scorer, ids_BT)
    still = soft.climb(context, ids_BT, clean_BT, start_BSD, torch.zeros(1), 1.0, lambda now: now)
    assert still.damage == pytest.approx([0.0] * 3, abs=1e-6)  # nothing moves: the clean text is the best point
    down = soft.climb(context, ids_BT, clean_BT, start_BSD, torch.ones(1), -1e-3, lambda now: now)
    assert down.damage == pytest.approx([0.0] * 3, abs=1e-6)


def test_rows_are_read_as_damage_per_token_that_could_have_changed(tmp_path):
    manifest = az.manifest(3, shorten=0)
    context = az.context(az.TextObjective(az.objective().scorer, 2.0), manifest, soft={"iterations": 3})
    made = soft.rows(context, manifest.test)
    assert list(made) == FORMS and [row["document"] for row in made["ball"]] == [d.name for d in manifest.test]
    row = made["prefix"][0]
    assert row["vectors"] == 3 and row["tokens"] == 20 and row["calibrated"]["temperature"] == 2.0
    assert row["ledger"] == {"forward_tokens": 20 + 4 * 23, "backward_tokens": 4 * 23, "candidates": 4}
    write_rows(tmp_path / "soft.jsonl", "attack/1", made["ball"] + made["prefix"])
    table = read_attack(tmp_path / "soft.jsonl")["prefix"]
    assert table.columns["damage"] == pytest.approx(table.columns["J"] * 20 / 3)
    assert table.columns["damage_cal"] == pytest.approx(table.columns["J_cal"] * 20 / 3)
    changed = (1 - table.columns["top1_agreement"]) * 20 / 3
    assert table.columns["changed_predictions"] == pytest.approx(changed) and changed.max() > 0


@pytest.mark.parametrize("name", ["soft", "noise"])
def test_what_writes_no_token_is_neither_replayed_nor_a_member_of_an_ensemble(name):
    with pytest.raises(ConfigurationError, match="cannot be replayed"):
        study_settings(attacks=("hotflip", name), transfer=(name,))
    with pytest.raises(ConfigurationError, match="no attack that searches tokens"):
        study_settings(attacks=("hotflip", name, "strongest"), settings={"strongest": {"members": ["hotflip", name]}})


def test_vectors_in_front_need_room_in_the_context():
    study = study_settings(attacks=("soft",), settings={"soft": {"length": 7}})
    assert study.attacks.longest_trigger() == 7
    assert max(study.sequences().values()) >= study.attacks.shared.window + 1 + 7
