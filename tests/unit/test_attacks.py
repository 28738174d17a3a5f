"""The searches: what they find, on models and on planted weaknesses."""

import itertools
from dataclasses import replace

import attack_zoo as az
import models_zoo as zoo
import numpy as np
import pytest
import torch
from isotone.attacks import gcg, hotflip, measure, query, random_flips, run
from isotone.attacks.documents import Document, Manifest
from isotone.attacks.gradient import GradientProposals
from isotone.attacks.proposals import Flip, fresh_flips
from isotone.attacks.registry import SPECS
from isotone.attacks.search import Plan, search
from isotone.attacks.trigger import Slots
from isotone.attacks.vocabulary import survives
from isotone.errors import ConfigurationError
from isotone.evaluation.journal import Journal
from isotone.evaluation.scoring import Scorer


def rows_of(name, context, manifest, folder):
    found, _, extra = run.run(name, context, manifest, Journal(folder / "rows.jsonl", {"attack": name}))
    return found, extra


def few_tokens(manifest, count=6):
    return replace(manifest.vocabulary, allowed=manifest.vocabulary.allowed[:count])


def test_greedy_with_all_candidates_equals_exhaustive_search():
    manifest, objective = az.manifest(2), az.objective()
    tokens = few_tokens(manifest, 5)
    propose = GradientProposals(objective, tokens, 10_000, per_position=10_000)
    for trace in hotflip.greedy(objective, manifest.test[:1], propose, flips=2):
        ids, clean = trace.document.ids.copy(), trace.clean
        for step in (1, 2):
            options = []
            for place, token in itertools.product(trace.document.eligible, tokens.allowed):
                if ids[place] != trace.document.ids[place] or token == ids[place]:
                    continue
                changed = ids.copy()
                changed[place] = token
                options.append(
                    (_damage(objective.scores(changed[None])[0], clean, changed, trace.document.ids), changed)
                )
            best = max(options, key=lambda option: option[0])
            assert trace.best[step].damage == pytest.approx(best[0], abs=1e-6)
            assert np.array_equal(trace.best[step].ids, best[1])
            ids = best[1]


def _damage(nll, clean, changed, original):
    kept = changed == original
    return (nll - clean)[kept].mean()


@pytest.mark.parametrize("name", ["hotflip", "query", "random", "gcg"])
def test_a_planted_weakness_is_found(name):
    manifest = az.manifest(2, shorten=0)
    tokens = replace(manifest.vocabulary, allowed=manifest.vocabulary.allowed[:4])
    planted = int(tokens.allowed[2])
    documents = [
        Document(
            document.name, np.where(document.ids == planted, int(tokens.allowed[0]), document.ids), document.eligible
        )
        for document in manifest.test
    ]
    target = az.Planted(place=4, token=planted)
    context = az.context(
        target, manifest, query={"candidates": 200}, random={"draws": 400, "flips": 1}, hotflip={"flips": 1},
        gcg={"iterations": 60, "search_width": 16},
    )  # fmt: skip
    context = replace(context, vocabulary=tokens)
    found = SPECS[name].search(context, documents)
    strongest = list(found.values())[-1]
    for trace in strongest:
        assert trace.best[-1].ids[4] == planted


@pytest.mark.parametrize("name", ["hotflip", "query", "random", "gcg", "uat"])
def test_rows_do_not_depend_on_batch_order_or_company(name, tmp_path):
    manifest = az.manifest(6)
    everything, _ = rows_of(name, az.context(az.objective(), manifest), manifest, tmp_path / "a")
    alone, _ = rows_of(name, az.context(az.objective(batch=1), manifest), manifest, tmp_path / "b")
    assert everything == alone
    backwards = Manifest(manifest.test[:3][::-1], manifest.search, manifest.vocabulary, "x")
    some, _ = rows_of(name, az.context(az.objective(), manifest), backwards, tmp_path / "c")
    key = lambda row: (row["variant"], row["document"])  # noqa: E731
    kept = {key(row): row for row in everything}
    for row in some:
        other = kept[key(row)]
        if name == "uat":  # the shared ledger is spread over fewer documents
            row = {**row, "ledger": other["ledger"], "curve": other["curve"]}
        assert row == other


@pytest.mark.parametrize("name", ["hotflip", "query", "random", "gcg", "uat"])
def test_stopped_and_resumed_equals_not_stopped(name, tmp_path, monkeypatch):
    manifest = az.manifest(6)
    context = az.context(az.objective(), manifest, shared={"fresh_starts": 2})
    whole, _ = rows_of(name, context, manifest, tmp_path / "whole")
    monkeypatch.setattr(run, "CHUNK", 1)
    saved, real = [], Journal.add

    def stop_after_two(self, entries):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(entries)
        real(self, entries)

    monkeypatch.setattr(Journal, "add", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        rows_of(name, context, manifest, tmp_path / "cut")
    monkeypatch.setattr(Journal, "add", real)
    journal = next((tmp_path / "cut").glob(".*.journal"))
    with open(journal, "a") as file:
        file.write('{"key": "cut o')
    calls, spec = [], SPECS[name]
    if name != "uat":
        spied = replace(spec, search=lambda context, todo: calls.append(len(todo)) or spec.search(context, todo))
        monkeypatch.setitem(SPECS, name, spied)
    resumed, _ = rows_of(name, context, manifest, tmp_path / "cut")
    assert resumed == whole
    if name != "uat":
        assert sum(calls) == 6 + (2 if spec.restarted(context.job.of(name)) else 0) - 2


def test_a_journal_of_other_settings_is_not_used(tmp_path):
    Journal(tmp_path / "x", {"a": 1}).add([("key", {"value": 1.5})])
    assert Journal(tmp_path / "x", {"a": 1}).done == {"key": {"value": 1.5}}
    assert Journal(tmp_path / "x", {"a": 2}).done == {}


@pytest.mark.parametrize("family", zoo.DECODERS)
def test_every_decoder_family_can_be_attacked(family, tmp_path):
    manifest = az.manifest(2, shorten=0)
    context = az.context(az.objective(family), manifest)
    for name in ("hotflip", "uat"):
        rows, _ = rows_of(name, context, manifest, tmp_path / name)
        assert all(np.isfinite(row["J"]) for row in rows)
    greedy = [row for row in rows_of("hotflip", context, manifest, tmp_path / "again")[0] if row["variant"] == "greedy"]
    assert all(row["J"] > 0 and row["exact"][0] == pytest.approx(row["curve"][1]["J"], abs=1e-5) for row in greedy)


def test_a_beam_and_more_candidates_do_no_harm_and_cost_what_they_say():
    manifest, objective = az.manifest(3, shorten=0), az.objective()

    def mean(count, beam):
        propose = GradientProposals(objective, manifest.vocabulary, count)
        traces = hotflip.greedy(objective, manifest.test, propose, flips=3, beam=beam)
        return np.mean([trace.best[-1].damage for trace in traces]), traces[0].ledger

    narrow, ledger = mean(4, 1)
    wide, _ = mean(32, 1)
    beam, _ = mean(4, 3)
    assert wide > narrow and beam >= narrow
    passes = ledger.forward_tokens + ledger.backward_tokens
    assert passes == (3 * (2 + 4) + 1) * 20  # K (2 + M) and the clean text, of 20 tokens each
    assert ledger.candidates == 12


def test_query_and_best_of_n_spend_what_hotflip_spends():
    manifest, objective = az.manifest(2, shorten=0), az.objective()
    context = az.context(objective, manifest)
    spent = {}
    for name in ("hotflip", "query", "random"):
        trace = list(SPECS[name].search(context, manifest.test).values())[-1][0]
        spent[name] = trace.ledger.forward_tokens + trace.ledger.backward_tokens
    assert spent["hotflip"] == spent["query"] == spent["random"]
    assert az.job(hotflip={"flips": 5, "candidates": 8, "beam": 2}).hotflip.forwards == 90
    assert query.matched_candidates(90, 3) == 30


def test_gcg_revises_positions_and_stays_in_its_budget():
    manifest, objective = az.manifest(3, shorten=0), az.objective()
    gradients = GradientProposals(objective, manifest.vocabulary, 8)
    traces = gcg.gcg(objective, manifest.test, gcg.SampledProposals(gradients, 16, 8, 0), flips=2, iterations=12)
    for trace in traces:
        damages = [state.damage for state in trace.best]
        assert damages == sorted(damages) and damages[-1] > 0
        assert (trace.best[-1].ids != trace.document.ids).sum() <= 2
        assert len(trace.best[-1].exact) >= 2


def test_search_stops_when_nothing_can_change():
    manifest, objective = az.manifest(1, shorten=0), az.objective()
    [trace] = search(objective, manifest.test, lambda asking, ledgers: [[] for _ in asking], Plan(2, 5))
    assert trace.best[-1].damage == 0 and trace.ledger.candidates == 0


def test_text_threat_model_only_accepts_what_survives():
    manifest, objective = az.manifest(3, shorten=0), az.objective()
    tokenizer = zoo.tiny_tokenizer()
    texts = ["the people sing beside the river", "in the beginning the king said go unto the people"]
    documents = []
    for name, text in enumerate(texts):
        ids = np.array(tokenizer.encode(text * 3, add_special_tokens=False)[:20])
        assert survives(tokenizer, ids.tolist())
        documents.append(Document(str(name), ids, np.arange(1, 19)))
    context = replace(az.context(objective, manifest), tokenizer=tokenizer)
    made = 0
    for name in ("hotflip", "query", "random", "gcg"):
        for traces in SPECS[name].search(context, documents).values():
            for trace in traces:
                for state in trace.best:
                    made += int((state.ids != trace.document.ids).sum())
                    assert survives(tokenizer, state.ids.tolist())
    assert made > 20
    unchecked = replace(context, tokenizer=None, job=az.job(random={"flips": 8}))
    free = [trace.best[-1].ids for traces in SPECS["random"].search(unchecked, documents).values() for trace in traces]
    assert not all(survives(tokenizer, ids.tolist()) for ids in free)  # the control must fail


def test_random_flips_are_distinct_and_unigram_follows_the_search_texts():
    manifest = az.manifest(1)
    document = manifest.test[0]
    chosen = random_flips.draw(document, manifest.vocabulary, flips=8, seed=0, variant="matched")
    assert len({flip.position for flip in chosen}) == 8
    assert all(flip.token != document.ids[flip.position] and flip.position in document.eligible for flip in chosen)
    counts = np.zeros_like(manifest.vocabulary.counts)
    counts[manifest.vocabulary.allowed[:3]] = 1
    tokens = replace(manifest.vocabulary, counts=counts)
    chosen = random_flips.draw(document, tokens, flips=8, seed=0, variant="unigram")
    assert {flip.token for flip in chosen} <= set(manifest.vocabulary.allowed[:3].tolist())


def test_a_broken_model_is_an_error_that_names_the_document(tmp_path):
    manifest = az.manifest(2, shorten=0)
    model = zoo.tiny("gpt_neox")
    with torch.no_grad():
        model.gpt_neox.final_layer_norm.weight.fill_(float("nan"))
    objective = az.TextObjective(Scorer(model, 0))
    for name in ("hotflip", "uat"):
        with pytest.raises(ConfigurationError, match='Document "document 0" has a loss that is not a number'):
            rows_of(
                name,
                az.context(objective, manifest, hotflip={"one_shot": name == "hotflip"}),
                manifest,
                tmp_path / name,
            )


def test_joint_proposals_of_a_trigger_and_gcg_draws():
    tokens = az.vocabulary(az.documents(2))
    embedding = torch.randn(zoo.VOCABULARY, 8, generator=torch.Generator().manual_seed(0))
    trigger, grad = tokens.allowed[:4].copy(), torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    made = Slots(embedding, tokens, 8)(trigger, grad, 0, np.random.default_rng(0))
    changed = (made != trigger).sum(1).tolist()
    assert changed[:2] == [2, 4] and changed[2:] == [1] * 6 and made.shape == (8, 4)
    gain = ((embedding[made] - embedding[trigger]) * grad).sum((1, 2))
    assert gain[1] >= gain[2:].max()
    drawn = Slots(embedding, tokens, 8, topk=5)(trigger, grad, 0, np.random.default_rng(0))
    assert ((drawn != trigger).sum(1) == 1).all()


def test_marker_summary_counts_variants():
    row = {"variant": "greedy", "J": 1.0, "total": 2.0, "clean_nll": 3.0, "published_success": True}
    row["ledger"] = {"forward_tokens": 3, "backward_tokens": 1, "candidates": 2}
    found = run.summary([row, {**row, "J": 3.0, "published_success": False}])
    assert found["greedy"]["J_mean"] == 2.0 and found["greedy"]["published_success_share"] == 0.5
    assert found["greedy"]["documents"] == 2 and found["greedy"]["forward_tokens"] == 6


def test_distance_profile_and_rank_correlation():
    rise, changed = np.arange(6.0), np.array([0, 1, 0, 0, 1, 0], bool)
    bins = measure.distance_profile(rise, changed, np.ones(6, bool))
    assert bins == [{"lo": 1, "hi": 1, "J": 3.5, "tokens": 2}, {"lo": 2, "hi": 2, "J": 3.0, "tokens": 1}]
    assert measure.rank_correlation([(1, 2), (2, 3)]) is None
    assert measure.rank_correlation([(1, 2), (1, 3), (1, 4)]) is None
    assert measure.rank_correlation([(1, 2), (2, 3), (3, 9)]) == pytest.approx(1.0)


def test_tempered_null_equals_its_analytic_value_and_is_no_effect_of_its_own():
    """Logits over T: J of the same flips follows from the untempered logits alone."""
    manifest, temperature = az.manifest(3, shorten=0), 1.45
    base, tempered = zoo.tiny("gpt_neox"), zoo.tiny("gpt_neox")
    with torch.no_grad():
        for parameter in tempered.gpt_neox.final_layer_norm.parameters():
            parameter.div_(temperature)
    objective = az.TextObjective(Scorer(base, 0))
    traces = hotflip.attack(az.context(objective, manifest), manifest.test)["greedy"]
    rows = {}
    for name, model in (("base", base), ("tempered", tempered), ("arm", tempered)):
        target = az.TextObjective(Scorer(model, 0))
        rows[name] = measure.rows(target, traces, attack="hotflip", variant="greedy", pieces=manifest.vocabulary.pieces)
    for trace, row in zip(traces, rows["tempered"], strict=True):
        losses = []
        for ids in (trace.document.ids, trace.best[-1].ids):
            logits = base(input_ids=torch.tensor([[0, *ids[:-1]]])).logits[0].double().detach() / temperature
            losses.append(-logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].numpy())
        kept = trace.best[-1].ids == trace.document.ids
        assert row["J"] == pytest.approx((losses[1] - losses[0])[kept].mean(), abs=1e-6)
    assert [row["top1_agreement"] for row in rows["tempered"]] == [row["top1_agreement"] for row in rows["base"]]
    assert np.mean([row["J"] for row in rows["tempered"]]) < np.mean([row["J"] for row in rows["base"]])
    excess = [null["J"] - arm["J"] for null, arm in zip(rows["tempered"], rows["arm"], strict=True)]
    assert excess == [0.0] * 3  # against its null of equal quality a tempered arm gains nothing


def test_steps_propose_what_was_not_tried_and_remember_the_best_of_what_was():
    manifest, objective = az.manifest(1, shorten=0), az.objective()
    asked = []

    class Spy(GradientProposals):
        def __call__(self, asking, ledgers):
            found = super().__call__(asking, ledgers)
            asked.append((dict(asking[0].seen), found[0]))
            return found

    hotflip.greedy(objective, manifest.test, Spy(objective, manifest.vocabulary, 8), flips=3)
    assert len(asked) == 3 and not asked[0][0]
    for seen, flips in asked[1:]:
        old = [flip for flip in flips if flip.remembered]
        assert len(flips) == 8 and len(old) == 2
        assert all((flip.position, flip.token) in seen for flip in old)
        assert not any((flip.position, flip.token) in seen for flip in flips if not flip.remembered)
    ranked = [Flip(3, 1), Flip(3, 2), Flip(4, 1), Flip(5, 1)]
    assert fresh_flips(ranked, {(4, 1)}, 2, 1) == [Flip(3, 1), Flip(5, 1)]
