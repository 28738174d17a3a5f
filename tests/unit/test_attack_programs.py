"""The programs end to end, on a tiny model: documents, attacks, transfer, perplexity, order."""

import json
import os
import subprocess
import sys
from pathlib import Path

import attack_zoo as az
import models_zoo as zoo
import numpy as np
import pandas as pd
import pytest
from isotone import models
from isotone.attacks import documents as shared
from isotone.attacks import prepare
from isotone.attacks.job import attack
from isotone.attacks.shared import AttackDocuments, DocumentsJob
from isotone.attacks.transfer import transfer
from isotone.attacks.vocabulary import allowed_tokens, pieces_of
from isotone.config.evaluation import PerplexityJob
from isotone.errors import ConfigurationError
from isotone.evaluation.job import perplexity
from isotone.records import read_json, read_rows
from isotone.schema import parse

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "the",
    "people",
    "walk",
    "beside",
    "the",
    "river",
    "and",
    "sing",
    "in",
    "the",
    "morning",
    "before",
    "the",
    "king",
]


def write_split(folder: Path, seed: int, count: int = 6, short: bool = False) -> list[str]:
    generator, tokenizer = np.random.default_rng(seed), zoo.tiny_tokenizer()
    texts = [" ".join(generator.choice(WORDS, 4 if short and index == 1 else 30)) for index in range(count)]
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    folder.mkdir(parents=True)
    stream, table = [], []
    for index, (text, tokens) in enumerate(zip(texts, ids, strict=True)):
        table.append((f"{folder.name} {index}", len(stream), len(tokens), len(text.encode()), len(text.split())))
        stream += [*tokens, 0]
    np.array(stream, np.uint16).tofile(folder / "tokens.bin")
    frame = pd.DataFrame(table, columns=["document", "start", "length", "bytes", "words"])
    frame.to_parquet(folder / "documents.parquet")
    pd.DataFrame({"document": frame["document"], "text": texts}).to_parquet(folder / "texts.parquet")
    info = {"dtype": "uint16", "tokens": len(stream), "fingerprint": f"seed {seed}", "document_start": "bos"}
    (folder / "data.json").write_text(json.dumps(info))
    return texts


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for name, seed in (("base", 0), ("other", 1)):
        models.save_model(zoo.tiny("gpt_neox", seed=seed), zoo.tiny_tokenizer(), folder / name)
    for seed, name in enumerate(("attack_test", "attack_search", "test")):
        write_split(folder / name, seed, short=name == "test")
    settings = {"documents": 4, "search_documents": 3, "window": 24}
    job = parse(DocumentsJob, {"shared": settings})
    prepare.make(job, folder / "base", folder / "attack_test", folder / "attack_search", folder / "attack")
    return folder


def files(folder: Path, name: str) -> dict[str, Path]:
    return {"rows": folder / f"{name}.jsonl", "cost": folder / f"{name}.cost.jsonl", "marker": folder / f"{name}.json"}


def test_documents_are_shared_filtered_and_disjoint(study):
    manifest = shared.read_manifest(study / "attack")
    assert len(manifest.test) == 4 and len(manifest.search) == 3
    for document in manifest.test:
        assert len(document.ids) == 24 and document.eligible.tolist() == list(range(1, 23))
    allowed = set(manifest.vocabulary.allowed.tolist())
    assert 0 not in allowed and all(manifest.vocabulary.pieces[token].isprintable() for token in allowed)
    assert manifest.vocabulary.counts.sum() == 3 * 24
    assert manifest.vocabulary.unigram_nll()[manifest.search[0].ids[0]] < manifest.vocabulary.unigram_nll().max()
    with pytest.raises(ConfigurationError, match="has the text of search document"):
        shared.write_manifest(study / "twin", manifest.test, manifest.test, manifest.vocabulary, {})
    with pytest.raises(ConfigurationError, match=r"attacks.shared.documents is 99, but the attack test split has 6"):
        settings = AttackDocuments(documents=99, window=24)
        texts = prepare.texts_of(prepare.TokenSplit.open(study / "attack_test"))
        shared.select(texts, 99, settings, zoo.tiny_tokenizer(), "test")


def test_what_is_passed_over_is_counted():
    tokenizer = zoo.tiny_tokenizer()
    good = np.array(tokenizer.encode("the people walk beside the river and sing " * 3, add_special_tokens=False))
    broken = np.array([tokenizer.encode(letter)[0] for letter in "the people the people the people"])
    texts = [("short", good[:5]), ("closed", np.zeros(20, np.int64)), ("unstable", broken), ("good", good)]
    settings = AttackDocuments(documents=1, window=20, threat_model="text")
    chosen, excluded = shared.select(texts, 1, settings, tokenizer, "test")
    assert [document.name for document in chosen] == ["good"]
    assert excluded == {"short": 1, "closed": 1, "unstable": 1}


def test_vocabulary_has_no_padding_special_or_unprintable_tokens():
    pieces = pieces_of(zoo.tiny_tokenizer(), zoo.VOCABULARY + 8)
    assert pieces[-8:] == [""] * 8
    printable, ascii_only = (set(allowed_tokens(pieces, [0], kind).tolist()) for kind in ("printable", "ascii"))
    assert ascii_only <= printable and not any(token >= zoo.VOCABULARY for token in printable)
    assert all(pieces[token].isascii() for token in ascii_only)
    with pytest.raises(ConfigurationError, match='vocabulary is "ascii", which leaves 0 of 3 tokens'):
        allowed_tokens(["é", "\n", "ü"], [], "ascii")


def test_an_embedding_smaller_than_the_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"vocab_size": 100}')
    with pytest.raises(ConfigurationError, match="largest id is 319, but the model has 100 embedding rows"):
        prepare.embedding_rows(tmp_path, 320)


@pytest.mark.parametrize("name", ["hotflip", "uat", "gcg"])
def test_attack_job_writes_rows_cost_and_marker_that_repeat(study, tmp_path, name):
    job = az.job(shared={"fresh_starts": 2}, gcg={"form": "universal"})
    paths = files(tmp_path, name)
    attack(name, job, study / "base", study / "attack", **paths)
    first = paths["rows"].read_bytes()
    marker = read_json(paths["marker"])
    attack(name, job, study / "base", study / "attack", **paths)
    assert paths["rows"].read_bytes() == first
    assert {**read_json(paths["marker"]), "cost": 0} == {**marker, "cost": 0}
    rows = read_rows(paths["rows"], "attack/1")
    assert not list(tmp_path.glob(".*journal*"))
    variants = {row["variant"] for row in rows}
    assert variants == (
        {"one_shot", "greedy", "greedy~restart"} if name == "hotflip" else {"trigger", "trigger~restart"}
    )
    for row in rows:
        changed = len(row["flips"])
        if name == "hotflip":
            n, k = row["tokens"], changed
            assert n * row["total"] == pytest.approx((n - k) * row["J"] + k * row["self"], abs=1e-6)
            assert row["published_degradation"] == pytest.approx(row["total"] / row["clean_nll"])
            assert [entry["flips"] for entry in row["curve"]] == list(range(len(row["curve"])))
        assert row["J"] == row["curve"][-1]["J"] and row["curve"][0]["J"] == 0
        assert 0 <= row["top1_agreement"] <= 1 and row["kl"] >= -1e-6
    if name != "hotflip":
        triggers = marker["result"]["triggers"]
        assert len(triggers) == 2 and triggers[0]["J"] >= triggers[1]["J"]
        spent = sum(entry["ledger"]["forward_tokens"] for entry in triggers)
        assert sum(row["ledger"]["forward_tokens"] for row in rows if row["variant"] == "trigger") == spent


def test_clean_loss_of_attacks_is_the_protocol_document(study, tmp_path):
    settings = {"perplexity": {"length": 32, "stride": 16}, "window": 24}
    paths = files(tmp_path, "perplexity")
    texts = study / "attack_test" / "texts.parquet"
    perplexity(parse(PerplexityJob, settings), study / "base", study / "attack_test", texts, **paths)
    rows = {row["document"]: row for row in read_rows(paths["rows"], "perplexity/1") if row["protocol"] == "document"}
    attacked = files(tmp_path, "random")
    attack("random", az.job(), study / "base", study / "attack", **attacked)
    for row in read_rows(attacked["rows"], "attack/1"):
        assert rows[row["document"]]["nll"] / row["tokens"] == pytest.approx(row["clean_nll"], rel=1e-6)


def test_perplexity_counts_excluded_documents_and_resumes(study, tmp_path, monkeypatch):
    from isotone.evaluation import job as module

    settings = parse(PerplexityJob, {"perplexity": {"length": 32, "stride": 16, "documents": 5}, "window": 24})
    texts = study / "test" / "texts.parquet"
    whole = files(tmp_path / "whole", "perplexity")
    perplexity(settings, study / "base", study / "test", texts, **whole)
    result = read_json(whole["marker"])["result"]
    assert result["document"]["excluded"] == 1 and result["document"]["documents"] == 4
    assert result["rolling"]["bits_per_byte"] > 0 and result["strided"]["bits_per_byte"] is None
    monkeypatch.setattr(module, "CHUNK", 2)
    calls, real = [], module.rows_of

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "rows_of", stop)
    cut = files(tmp_path / "cut", "perplexity")
    with pytest.raises(KeyboardInterrupt):
        perplexity(settings, study / "base", study / "test", texts, **cut)
    assert not cut["rows"].exists()
    perplexity(settings, study / "base", study / "test", texts, **cut)
    assert len(calls) == 4 * 3 + 1  # three chunks a protocol, one of them tried twice
    found, expected = read_rows(cut["rows"], "perplexity/1"), read_rows(whole["rows"], "perplexity/1")
    assert [row["document"] for row in found] == [row["document"] for row in expected]
    np.testing.assert_allclose([row["nll"] for row in found], [row["nll"] for row in expected], rtol=1e-6)


def test_texts_that_do_not_belong_to_the_split_are_refused(study, tmp_path):
    with pytest.raises(ConfigurationError, match=r'document "test 0" has .* bytes, but .* has None'):
        perplexity(
            PerplexityJob(),
            study / "base",
            study / "test",
            study / "attack_test" / "texts.parquet",
            **files(tmp_path, "p"),
        )


def test_an_empty_document_is_an_error_with_its_name(tmp_path, study):
    write_split(tmp_path / "test", 0)
    table = pd.read_parquet(tmp_path / "test" / "documents.parquet")
    table.loc[2, "length"] = 0
    table.to_parquet(tmp_path / "test" / "documents.parquet")
    with pytest.raises(ConfigurationError, match='document "test 2" is empty'):
        perplexity(
            PerplexityJob(),
            study / "base",
            tmp_path / "test",
            tmp_path / "test" / "texts.parquet",
            **files(tmp_path, "p"),
        )


def test_a_model_that_does_not_fit_the_documents_is_refused(study, tmp_path):
    models.save_model(zoo.tiny("gpt_neox", vocabulary=400), zoo.tiny_tokenizer(), tmp_path / "wide")
    with pytest.raises(ConfigurationError, match="has 400 embedding rows, but the attack documents were made for 320"):
        attack("hotflip", az.job(), tmp_path / "wide", study / "attack", **files(tmp_path, "x"))


@pytest.mark.parametrize("name", ["hotflip", "uat"])
def test_transfer_replays_exactly_on_the_source_and_crosses_gradients(study, tmp_path, name):
    job = az.job()
    sources = []
    for model in ("base", "other"):
        paths = files(tmp_path / model, name)
        attack(name, job, study / model, study / "attack", **paths)
        sources.append((model, paths["rows"], study / model))
    paths = files(tmp_path, "transfer")
    transfer(name, job, ("base", study / "base"), study / "attack", sources, **paths)
    rows = read_rows(paths["rows"], "transfer/1")
    own = {
        row["document"]: row["J"]
        for row in read_rows(sources[0][1], "attack/1")
        if row["variant"] in ("greedy", "trigger")
    }
    replayed = [row for row in rows if row["source"] == "base"]
    assert {row["document"]: row["J"] for row in replayed} == pytest.approx(own, abs=1e-6)
    others = [row for row in rows if row["source"] == "other" and row["variant"] != "crossed"]
    assert len(others) == 4 and np.mean([row["J"] for row in others]) < np.mean(list(own.values()))
    crossed = [row for row in rows if row["variant"] == "crossed"]
    assert len(crossed) == (2 if name == "hotflip" else 0)
    for row in crossed:
        assert row["J"] > 0


def test_transfer_of_other_documents_is_refused(study, tmp_path):
    from isotone.attacks.transfer import replay

    context, manifest = az.context(az.objective(), az.manifest(2)), az.manifest(2)
    with pytest.raises(ConfigurationError, match='no greedy row for document "document 0"'):
        replay(context, manifest.test, [{"variant": "greedy", "document": "elsewhere"}], "hotflip")


def test_an_empty_manifest_document_is_refused(study, tmp_path):
    manifest = shared.read_manifest(study / "attack")
    empty = shared.Document("nothing", np.array([3]), np.array([], np.int64))
    shared.write_manifest(tmp_path, [empty], manifest.search, manifest.vocabulary, {})
    with pytest.raises(ConfigurationError, match='document "nothing" is empty'):
        shared.read_manifest(tmp_path)


def test_programs_refuse_bad_settings_without_torch(study):
    for program, options in {
        "attack.py": [
            "--attack",
            "hotflip",
            "--model",
            "m",
            "--documents",
            "d",
            "--rows",
            "r",
            "--cost",
            "c",
            "--marker",
            "k",
        ],
        "perplexity.py": [
            "--model",
            "m",
            "--split",
            "s",
            "--documents",
            "d",
            "--rows",
            "r",
            "--cost",
            "c",
            "--marker",
            "k",
        ],
    }.items():
        command = [sys.executable, str(ROOT / "scripts" / program), "--settings", '{"hotflips": 1}', *options]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 78 and "hotflips" in found.stderr and "Traceback" not in found.stderr


TELLS_THREADS = """
import atexit, os, sys
@atexit.register
def tell():
    if "torch" in sys.modules:
        with open(os.environ["THREADS"], "w") as file:
            file.write(str(sys.modules["torch"].get_num_threads()))
"""


def threads_on_a_wide_machine(folder: Path, program: str, *options: str) -> str:
    """Run a program where torch would take two threads by itself; how many it took."""
    (folder / "sitecustomize.py").write_text(TELLS_THREADS)
    around = {"PYTHONPATH": str(folder), "THREADS": str(folder / "threads"), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, str(ROOT / "scripts" / program), *options]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | around)
    assert found.returncode == 0, found.stderr
    return (folder / "threads").read_text()


def test_program_attack_runs_on_one_thread_anywhere(study, tmp_path):
    """Sums depend on the number of threads, and with them the last digits of a loss."""
    paths = files(tmp_path, "query")
    options = ["--attack", "query", "--model", str(study / "base"), "--documents", str(study / "attack")]
    options += ["--settings", json.dumps({"query": {"flips": 1}, "hotflip": {"flips": 1, "candidates": 2}})]
    options += [part for key, path in paths.items() for part in (f"--{key}", str(path))]
    assert threads_on_a_wide_machine(tmp_path, "attack.py", *options) == "1"
    assert read_json(paths["marker"])["result"]["greedy"]["documents"] == 4


def test_program_perplexity_runs_on_one_thread_anywhere(study, tmp_path):
    paths = files(tmp_path, "perplexity")
    options = ["--settings", '{"perplexity": {"length": 32, "stride": 16, "documents": 5}, "window": 24}']
    options += ["--model", str(study / "base"), "--split", str(study / "test")]
    options += ["--documents", str(study / "test" / "texts.parquet")]
    options += [part for key, path in paths.items() for part in (f"--{key}", str(path))]
    assert threads_on_a_wide_machine(tmp_path, "perplexity.py", *options) == "1"
    assert read_json(paths["marker"])["result"]["rolling"]["documents"] == 5
