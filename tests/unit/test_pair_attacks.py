"""Scoring of pairs and attacks on their sources."""

from __future__ import annotations

import json
from pathlib import Path

import attack_zoo
import models_zoo as zoo
import numpy as np
import pytest
import torch
from isotone.attacks import hotflip, measure, prepare
from isotone.attacks.context import Context
from isotone.attacks.documents import Document, read_manifest
from isotone.attacks.gradient import GradientProposals
from isotone.attacks.job import attack, open_target
from isotone.attacks.objective import PairObjective
from isotone.attacks.registry import SPECS
from isotone.attacks.shared import DocumentsJob
from isotone.attacks.vocabulary import Vocabulary
from isotone.config.evaluation import PerplexityJob
from isotone.data.blocks import TokenSplit
from isotone.data.splits import SplitWriter
from isotone.errors import ConfigurationError
from isotone.evaluation.job import rows_of
from isotone.evaluation.pairs import PairScorer, joined
from isotone.models import save_model
from isotone.records import read_rows
from isotone.schema import parse
from pair_zoo import EOS, VOCABULARY, random_pairs, write_pairs
from transformers import PreTrainedTokenizerFast

PAIRS = random_pairs(6, seed=4, shortest=6, longest=12)
FAMILIES = ["t5", "umt5_gated"]


def scorer(family: str = "t5", **options: int) -> PairScorer:
    return PairScorer(zoo.tiny(family, vocabulary=VOCABULARY), EOS, **options)


def own_loss(model, pair) -> np.ndarray:
    """Losses of a target's tokens by plain transformers."""
    source, target = (torch.from_numpy(side)[None] for side in pair)
    with torch.no_grad():
        logits = model(input_ids=source, labels=target).logits[0]
    return torch.nn.functional.cross_entropy(logits, target[0], reduction="none").double().numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_plain_transformers_and_depend_on_no_company(family: str) -> None:
    kernel = scorer(family)
    rows = [joined(*pair) for pair in PAIRS]
    for ids, pair in zip(rows, PAIRS, strict=True):
        found = kernel.texts(torch.from_numpy(ids)[None])[0].double().numpy()
        assert (found[: len(pair[0])] == 0).all()
        np.testing.assert_allclose(found[len(pair[0]) :], own_loss(kernel.model, pair), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(kernel.pairs(PAIRS), [own_loss(kernel.model, pair).sum() for pair in PAIRS], rtol=1e-5)
    # equally long rows whose sources differ in length
    first, second = PAIRS[0], (PAIRS[0][0][1:], np.insert(PAIRS[0][1], 0, 7))
    both = torch.from_numpy(np.stack([joined(*first), joined(*second)]))
    together = kernel.texts(both)
    assert torch.equal(together[0], kernel.texts(both[:1])[0]) and torch.equal(together[1], kernel.texts(both[1:])[0])
    assert torch.equal(scorer(family, batch=1).texts(both), together)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_the_sources_embeddings(family: str) -> None:
    kernel = scorer(family)
    ids = joined(*PAIRS[1])
    size = len(PAIRS[1][0])
    weights = np.zeros(len(ids), np.float32)
    weights[size:] = np.linspace(0.5, 2.0, len(ids) - size)
    losses, slope = kernel.gradients(torch.from_numpy(ids)[None], torch.from_numpy(weights)[None])
    torch.testing.assert_close(losses[0], kernel.texts(torch.from_numpy(ids)[None])[0], rtol=1e-4, atol=1e-4)
    assert (slope[0, size:] == 0).all() and slope[0, : size - 1].abs().sum(-1).min() > 0
    model = kernel.model.double()
    embeds = model.get_input_embeddings()(torch.from_numpy(PAIRS[1][0])).detach()
    direction = torch.randn(size, zoo.WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def total(step: float) -> float:
        with torch.no_grad():
            target = torch.from_numpy(PAIRS[1][1])
            logits = model(inputs_embeds=(embeds + step * direction)[None], labels=target[None]).logits[0]
            losses = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        return float((losses * torch.from_numpy(weights[size:])).sum())

    numeric = (total(1e-4) - total(-1e-4)) / 2e-4
    assert float((slope[0, :size].double() * direction).sum()) == pytest.approx(numeric, rel=2e-3, abs=1e-3)


def test_a_changed_source_is_scored_as_a_whole_pass_and_the_target_never_changes() -> None:
    objective = PairObjective(scorer())
    ids = joined(*PAIRS[2])[None]
    clean = objective.scores(ids)
    changed = objective.flips(ids, clean, np.array([0, 0]), np.array([0, 3]), np.array([9, 11]))
    for row, (place, token) in enumerate([(0, 9), (3, 11)]):
        source = PAIRS[2][0].copy()
        source[place] = token
        np.testing.assert_allclose(
            changed[row, len(source) :], own_loss(objective.scorer.model, (source, PAIRS[2][1])), atol=2e-5
        )
    assert not np.allclose(changed[0], clean[0])
    kept = objective.kept(ids, ids)[0]
    assert kept.tolist() == [False] * len(PAIRS[2][0]) + [True] * len(PAIRS[2][1])
    assert objective.tokens(ids.shape[1]) == ids.shape[1]


def test_comparing_two_sources_gives_probabilities_of_the_target_alone() -> None:
    kernel = scorer()
    before, after = joined(*PAIRS[3]), joined(np.insert(PAIRS[3][0], 0, 5), PAIRS[3][1])
    found = kernel.compare(torch.from_numpy(before), torch.from_numpy(after), 2.0)
    size, count = len(PAIRS[3][0]), len(PAIRS[3][1])
    model, target = kernel.model, torch.from_numpy(PAIRS[3][1])
    with torch.no_grad():
        logs = [
            (model(input_ids=torch.from_numpy(ids[:-count])[None], labels=target[None]).logits[0] / 2).log_softmax(-1)
            for ids in (before, after)
        ]
    for losses, log in zip((found.nll_before, found.nll_after), logs, strict=True):
        torch.testing.assert_close(losses[size:], -log.gather(1, target[:, None])[:, 0], rtol=1e-4, atol=1e-4)
    assert (found.kl[:size] == 0).all() and found.same[:size].all() and float(found.kl[size:].sum()) > 0


def documents() -> list[Document]:
    return [
        Document(f"pair {index}", joined(*pair), np.arange(2, len(pair[0]) - 1)) for index, pair in enumerate(PAIRS)
    ]


def context(**changes: dict) -> Context:
    pieces = [f"t{index}" for index in range(VOCABULARY)]
    vocabulary = Vocabulary(np.arange(2, VOCABULARY), pieces, np.ones(VOCABULARY, np.int64))
    return Context(PairObjective(scorer()), vocabulary, attack_zoo.job(**changes))


@pytest.mark.parametrize(
    "name", [name for name, spec in SPECS.items() if spec.on_pairs and not spec.combines(spec.settings())]
)
def test_every_attack_changes_open_places_of_the_source_only_and_reports_exact_damage(name: str) -> None:
    scene = context()
    for document in documents()[:2]:
        size = int((document.ids == EOS).argmax()) + 1
        pair = document.ids[:size], document.ids[size:]
        for variant, traces in SPECS[name].search(scene, [document]).items():
            (row,) = measure.rows(scene.objective, traces, attack=name, variant=variant, pieces=scene.vocabulary.pieces)
            places = [flip["position"] for flip in row["flips"]]
            assert 0 < len(places) <= 2 and set(places) <= set(document.eligible.tolist())
            assert all(flip["new"] > EOS for flip in row["flips"])
            source = pair[0].copy()
            source[places] = [flip["new"] for flip in row["flips"]]
            before, after = (own_loss(scene.objective.scorer.model, (side, pair[1])) for side in (pair[0], source))
            assert row["J"] == pytest.approx(float((after - before).mean()), abs=5e-5)
            assert row["total"] == pytest.approx(row["J"]) and row["self"] == 0
            assert row["clean_nll"] == pytest.approx(float(before.mean()), abs=5e-5) and row["tokens"] == len(pair[1])
            assert json.dumps(row)


def test_greedy_search_hurts_more_than_the_best_of_random_draws_of_its_budget() -> None:
    scene = context(hotflip={"candidates": 12}, random={"draws": 28})
    damages = {}
    for name, variant in (("hotflip", "greedy"), ("random", "best_of_n")):
        found = [SPECS[name].search(scene, [document])[variant][0] for document in documents()]
        damages[name] = np.mean(
            [
                measure.rows(scene.objective, [trace], attack=name, variant=variant, pieces=scene.vocabulary.pieces)[0][
                    "J"
                ]
                for trace in found
            ]
        )
    assert damages["hotflip"] > damages["random"] > 0


def test_first_order_gains_are_gradients_times_differences() -> None:
    scene = context()
    propose = GradientProposals(scene.objective, scene.vocabulary, 4)
    document = documents()[0]
    (trace,) = hotflip.one_shot(scene.objective, [document], propose.ranking, flips=2)
    weights = scene.objective.kept(document.ids, document.ids).astype(np.float64)[None]
    _, grad = scene.objective.slopes(document.ids[None], weights)
    place, token = trace.best[1].order[0], trace.best[1].ids[trace.best[1].order[0]]
    table = scene.objective.scorer.embedding.weight
    gain = float(grad[0, place] @ (table[token] - table[document.ids[place]]))
    assert trace.best[1].predicted[0] == pytest.approx(gain / weights.sum(), rel=1e-4)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scratch T5 with its tokenizer, two tokenised splits of pairs, and the attack documents made from them."""
    from isotone.config.data import Architecture, Pairs, Tokens
    from isotone.data.readers.embedded import verse_pairs
    from isotone.data.tokenisation import tokenise
    from isotone.models.origins.scratch import new_model

    folder = tmp_path_factory.mktemp("pair-attacks")
    verses = list(verse_pairs())[:200]
    for name, part in (("train", verses[:160]), ("test", verses[:100]), ("search", verses[100:])):
        writer = SplitWriter(folder / f"{name}.parquet", pairs=True)
        for verse in part:
            writer.add(verse, verse.digest)
        writer.close({})
    shape = Architecture(family="t5", hidden=16, layers=1, heads=2, intermediate=32, activation="relu", vocabulary=400)
    model, tokenizer = new_model(shape, folder / "train.parquet", 0)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
    model.resize_token_embeddings(402)
    save_model(model, tokenizer, folder / "model")
    for name in ("test", "search"):
        tokenise(folder / f"{name}.parquet", folder / "model", folder / name, Tokens(pairs=Pairs(prefix="modernise: ")))
    job = parse(DocumentsJob, {"shared": {"documents": 3, "search_documents": 2}})
    prepare.make(job, folder / "model", folder / "test", folder / "search", folder / "attack")
    return folder


def test_prefix_end_and_sentinels_are_closed(study: Path) -> None:
    manifest, tokenizer = read_manifest(study / "attack"), PreTrainedTokenizerFast.from_pretrained(study / "model")
    assert manifest.pairs and manifest.eos == tokenizer.eos_token_id and manifest.start == tokenizer.pad_token_id
    closed = {tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<extra_id_0>")}
    assert not closed & set(manifest.vocabulary.allowed.tolist()) and len(manifest.vocabulary.pieces) == 402
    for document in manifest.test:
        end = int((document.ids == manifest.eos).argmax())
        front = tokenizer.decode(document.ids[: document.eligible[0]]).strip()
        assert (
            front == "modernise:"
            and document.eligible[-1] == end - 1
            and len(document.eligible) == end - document.eligible[0]
        )


def test_an_attack_runs_from_files_to_rows_and_refuses_the_other_kind_of_model(study: Path, tmp_path: Path) -> None:
    job = attack_zoo.job()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        attack(
            "hotflip",
            job,
            study / "model",
            study / "attack",
            *(tmp_path / name / part for part in ("rows", "cost", "marker")),
        )
    rows = list(read_rows(tmp_path / "one/rows", "attack/1"))
    assert len(rows) == 6 and {row["variant"] for row in rows} == {"one_shot", "greedy"}
    assert (tmp_path / "one/rows").read_bytes() == (tmp_path / "two/rows").read_bytes()
    manifest = read_manifest(study / "attack")
    save_model(
        zoo.tiny("gpt_neox", vocabulary=402),
        PreTrainedTokenizerFast.from_pretrained(study / "model"),
        tmp_path / "texts",
    )
    with pytest.raises(ConfigurationError, match="has no encoder, but the attack documents are pairs"):
        open_target(tmp_path / "texts", job, manifest)


def test_clean_quality_scores_the_whole_target_and_its_end(tmp_path: Path) -> None:
    write_pairs(tmp_path / "s", PAIRS)
    split, kernel = TokenSplit.open(tmp_path / "s"), scorer()
    rows = rows_of(kernel, parse(PerplexityJob, {}), split, "document", [4, 0])
    assert [row["document"] for row in rows] == ["pair 4", "pair 0"]
    for row, pair in zip(rows, (PAIRS[4], PAIRS[0]), strict=True):
        assert row["tokens"] == len(pair[1]) and not row["excluded"]
        assert row["nll"] == pytest.approx(own_loss(kernel.model, pair).sum(), rel=1e-5)
    kernel.model.get_encoder().block[0].layer[1].layer_norm.weight.data[:] = float("nan")
    with pytest.raises(ConfigurationError, match='"pair 0" has a loss that is not a number'):
        rows_of(kernel, parse(PerplexityJob, {}), split, "document", [0])
