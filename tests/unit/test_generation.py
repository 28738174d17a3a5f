import itertools
from dataclasses import replace

import models_zoo as zoo
import numpy as np
import pytest
import torch
import yaml
from isotone.config.evaluation import Generation
from isotone.errors import ConfigurationError
from isotone.evaluation.generation import Writer
from isotone.planning.estimate import Estimate
from isotone.records import write_json
from isotone.studies.study import read_study
from transformers import GenerationConfig

VOCABULARY, EOS, PAD = 24, 1, 0
BEAMS = Generation(beams=4, length_penalty=1.2, no_repeat_ngram=3, max_new_tokens=16)


def model_of(seed=1):
    return zoo.tiny("t5_gated", seed=seed, vocabulary=VOCABULARY)


def sources(count=16, longest=24):
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, longest, size=count)
    return [np.append(generator.integers(2, VOCABULARY, size=length), EOS) for length in lengths]


def plain(outputs):
    return [(output.ids.tolist(), output.capped) for output in outputs]


@torch.inference_mode()
def log_p(model, source, written):
    """ln p of the next token behind ``written``, alone and without any padding."""
    start = model.config.decoder_start_token_id
    logits = model(input_ids=torch.tensor(source)[None], decoder_input_ids=torch.tensor([[start, *written]])).logits
    return logits[0, -1].double().log_softmax(-1)


@pytest.mark.parametrize("settings", [Generation(beams=1, max_new_tokens=16), BEAMS], ids=["greedy", "beams"])
def test_the_batch_changes_no_output(settings):
    model, texts = model_of(), sources()
    alone = plain(Writer(model, settings, batch=1).write(texts))
    assert {capped for _, capped in alone} == {True, False} and len({len(ids) for ids, _ in alone}) > 4
    for batch in (5, 16):
        assert plain(Writer(model, settings, batch=batch).write(texts)) == alone
    assert plain(Writer(model, settings, batch=16).write(texts[::-1])) == alone[::-1]


def test_greedy_takes_the_likeliest_token_until_eos_or_the_limit():
    model, texts = model_of(), sources(8)
    for source, output in zip(texts, Writer(model, Generation(beams=1, max_new_tokens=12)).write(texts), strict=True):
        expected: list[int] = []
        while len(expected) < 12 and (token := int(log_p(model, source, expected).argmax())) != EOS:
            expected.append(token)
        assert output.ids.tolist() == expected
        assert output.capped is (len(expected) == 12)


def test_beams_as_many_as_tokens_find_the_best_of_all_outputs():
    model, texts = model_of(), sources(4)
    settings = Generation(beams=VOCABULARY, max_new_tokens=2, length_penalty=1.0)
    for source, output in zip(texts, Writer(model, settings).write(texts), strict=True):
        first = log_p(model, source, [])
        totals = {(EOS,): float(first[EOS])}
        for token in set(range(VOCABULARY)) - {EOS}:
            second = first[token] + log_p(model, source, [token])
            totals |= {(token, other): float(second[other]) / 2 for other in range(VOCABULARY)}
        best = max(totals, key=totals.__getitem__)
        assert output.ids.tolist() == [token for token in best if token != EOS]


def test_each_setting_reaches_the_search():
    model, texts = model_of(), sources()
    base = plain(Writer(model, Generation(max_new_tokens=16)).write(texts))
    longest = plain(Writer(model, Generation(max_new_tokens=16, min_new_tokens=10)).write(texts))
    assert min(len(ids) for ids, _ in base) < 10 <= min(len(ids) for ids, _ in longest)
    free, held = (
        [ids for ids, _ in plain(Writer(model, Generation(max_new_tokens=16, no_repeat_ngram=n)).write(texts))]
        for n in (0, 2)
    )
    assert any(repeats(ids) for ids in free) and not any(repeats(ids) for ids in held)
    short, long = (
        np.mean([len(ids) for ids, _ in plain(Writer(model, Generation(length_penalty=value, max_new_tokens=16, early_stopping=False)).write(texts))])
        for value in (-2.0, 3.0)
    )  # fmt: skip
    assert short < long
    early = plain(Writer(model, Generation(max_new_tokens=16, early_stopping=False)).write(texts))
    assert early != base


def repeats(ids):
    pairs = list(itertools.pairwise(ids))
    return len(set(pairs)) < len(pairs)


def test_what_the_models_folder_wishes_plays_no_part():
    model, texts = model_of(), sources(6)
    own = plain(Writer(model, BEAMS).write(texts))
    wishes = GenerationConfig(num_beams=2, repetition_penalty=5.0, min_new_tokens=9, length_penalty=-3.0, top_k=3)
    wishes.forced_eos_token_id, wishes.bad_words_ids = 7, [[3], [4]]
    model.generation_config = wishes
    assert plain(Writer(model, BEAMS).write(texts)) == own
    assert model.generation_config is wishes, "and it is given back"


def test_an_eos_as_the_last_allowed_token_is_no_cap():
    model, texts = model_of(), sources()
    outputs = Writer(model, Generation(beams=1, max_new_tokens=16)).write(texts)
    source, ended = next((s, o) for s, o in zip(texts, outputs, strict=True) if not o.capped and len(o.ids) > 1)
    exact = Writer(model, Generation(beams=1, max_new_tokens=len(ended.ids) + 1)).write([source])[0]
    shorter = Writer(model, Generation(beams=1, max_new_tokens=len(ended.ids))).write([source])[0]
    assert exact.ids.tolist() == shorter.ids.tolist() == ended.ids.tolist()
    assert not exact.capped and shorter.capped


def test_memory_that_ends_halves_the_batch_and_loses_nothing(monkeypatch):
    model, texts = model_of(), sources(9)
    expected = plain(Writer(model, BEAMS).write(texts))
    whole, sizes = type(model).generate, []

    def generate(self, *, input_ids, **rest):
        sizes.append(len(input_ids))
        if len(input_ids) > 3:
            raise MemoryError
        return whole(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(type(model), "generate", generate)
    assert plain(Writer(model, BEAMS, batch=9).write(texts)) == expected
    assert max(sizes) == 9


def test_models_that_cannot_write_are_refused():
    with pytest.raises(ConfigurationError, match="gpt_neox is a decoder-only model"):
        Writer(zoo.tiny("gpt_neox"), BEAMS)
    model = model_of()
    model.config.eos_token_id = None
    with pytest.raises(ConfigurationError, match="no single eos_token_id"):
        Writer(model, BEAMS)


def test_the_estimate_counts_what_is_written(root, tmp_path):
    study = read_study(yaml.safe_load((root / "config/t5-smoke.yaml").read_text()), "here")
    study = replace(study, generation=Generation(beams=3, max_new_tokens=10, documents=5))
    estimate = Estimate(study, tmp_path, "h100", 1, 25.0)
    stages = {stage.stage: stage for stage in estimate.stages()}
    each, runs, attacked = 64 + 3 * 10, len(study.runs()), study.attacks.shared.documents
    assert stages["generate"].tokens == runs * 5 * each
    assert stages["generate after hotflip"].tokens == runs * 2 * attacked * each
    assert stages["attack random"].tokens >= 4 * attacked * (64 + 64), "a pair is attacked whole"
    assert any(note.startswith("pairs: tokens are those of sources") for note in estimate.notes())


def test_sources_fill_the_rows_of_pairs(root, tmp_path):
    study = read_study(yaml.safe_load((root / "config/t5-smoke.yaml").read_text()), "here")
    write_json(tmp_path / "data/train/data.json", {"tokens": 10, "source_tokens": 96 * 16 * 7, "documents": 3})
    stages = {stage.stage: stage for stage in Estimate(study, tmp_path, "h100", 1, 25.0).stages()}
    assert stages["train baseline"].steps == len(study.seeds) * 7
