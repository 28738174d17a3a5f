from __future__ import annotations

import copy
import importlib.util
import json
import sys

import models_zoo as zoo
import numpy as np
import pandas as pd
import pytest
import torch
from isotone import records
from isotone.attacks.documents import Document, write_manifest
from isotone.attacks.vocabulary import Vocabulary
from isotone.config.constraint import Calibration, Constraint
from isotone.constraints import calibration_ids, constrain
from isotone.constraints.capture import calibration_blocks
from isotone.controls.make import Noise, add_noise, make_control, mean_nll, scale_logits, solve
from isotone.controls.temperature import best_temperature
from isotone.errors import ConfigurationError
from isotone.evaluation.scoring import Scorer
from isotone.models import load_model, load_tokenizer, prefix_token, save_model
from isotone.records import read_json, write_json
from isotone.schema import as_mapping
from transformers import AutoModelForCausalLM


def fitted(family="gpt_neox"):
    """A model that has learnt something, so that a temperature costs something: it copies its input."""
    model = zoo.tiny(family)
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        hidden = model.base_model(input_ids=torch.arange(zoo.VOCABULARY)[:, None]).last_hidden_state[:, 0]
        head.copy_(0.5 * (hidden - hidden.mean(0)))
    return model


def text(batch=6, length=24):
    ids = zoo.random_ids(batch, length)
    return ids, ids.clone()  # the target is the input token: what `fitted` knows


def test_mean_nll_is_the_models_own_loss_over_scored_tokens():
    model, (inputs, targets) = fitted(), text()
    targets[:, :5] = -100
    expected = torch.nn.functional.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten())
    assert mean_nll(model, inputs, targets) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "opt", "llama", "olmo"])
def test_a_temperature_is_exported_in_the_weights(family, tmp_path):
    model, ids = zoo.tiny(family), zoo.random_ids(2, 8)
    if family == "olmo":
        assert not model.config.tie_word_embeddings
    before = model(ids).logits
    scale_logits(model, 1 / 1.7)
    save_model(model, None, tmp_path / "m")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m")(ids).logits
    torch.testing.assert_close(again, before / 1.7, rtol=0, atol=2e-6)


@pytest.mark.parametrize("flattened", [0.5, 1.0, 2.5])
def test_recalibration_takes_a_temperature_back(flattened):
    """A model and the same model flattened have one best temperature between them: no temperature moves what is recalibrated."""
    blocks, plain = text(), best_temperature(fitted(), *text())
    model = fitted()
    scale_logits(model, 1 / flattened)
    found = best_temperature(model, *blocks)
    assert found["temperature"] * flattened == pytest.approx(plain["temperature"], rel=2e-3)
    assert found["nats_per_token"] == pytest.approx(plain["nats_per_token"], abs=1e-5)
    assert found["plain_nats_per_token"] == pytest.approx(mean_nll(model, *blocks))
    assert found["nats_per_token"] < mean_nll(model, *blocks, temperature=1.05 * found["temperature"])
    assert found["nats_per_token"] < mean_nll(model, *blocks, temperature=found["temperature"] / 1.05)


def test_a_tied_head_without_a_gain_cannot_be_tempered():
    model = zoo.tiny("olmo")
    model.config.tie_word_embeddings = True
    with pytest.raises(ConfigurationError, match="no temperature can be exported"):
        scale_logits(model, 0.5)


@pytest.mark.parametrize("kind", ["tempered", "noised"])
def test_a_null_has_the_target_loss_and_the_reference_stays(kind):
    reference, blocks = fitted(), text()
    base = mean_nll(reference, *blocks)
    weights = copy.deepcopy(reference.state_dict())
    control = make_control(kind, reference, base + 0.3, *blocks, tolerance=1e-3)
    assert control.found and abs(mean_nll(control.model, *blocks) - base - 0.3) <= 1e-3 + 1e-5
    assert control.setting > (1 if kind == "tempered" else 0)
    assert all(torch.equal(value, weights[name]) for name, value in reference.state_dict().items())
    assert abs(control.report()["difference"]) <= 1e-3 + 1e-5


def test_a_tempered_null_predicts_the_same_tokens_and_a_noised_one_does_not():
    reference, blocks = fitted(), text()
    target = mean_nll(reference, *blocks) + 0.5
    tempered, noised = (
        make_control(kind, reference, target, *blocks, tolerance=1e-3).model for kind in ("tempered", "noised")
    )
    best = reference(blocks[0]).logits.argmax(-1)
    assert torch.equal(tempered(blocks[0]).logits.argmax(-1), best)
    assert not torch.equal(noised(blocks[0]).logits.argmax(-1), best)


def test_noise_repeats_and_differs_between_seeds():
    first, again, other = (zoo.tiny("gpt2") for _ in range(3))
    add_noise(first, 0.1, 0)
    add_noise(again, 0.1, 0)
    add_noise(other, 0.1, 1)
    assert all(torch.equal(value, again.get_parameter(name)) for name, value in first.named_parameters())
    name = "transformer.h.0.mlp.c_fc.weight"
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
    plain = dict(zoo.tiny("gpt2").named_parameters())
    moved = {name for name, value in first.named_parameters() if not torch.equal(value, plain[name])}
    assert moved == {name for name, value in plain.items() if ".h." in name and value.dim() == 2}


def test_each_matrix_has_noise_of_its_own():
    model, plain = zoo.tiny("gpt2"), zoo.tiny("gpt2")
    add_noise(model, 0.1, 0)
    name = "transformer.h.{}.mlp.c_fc.weight"
    first, second = (model.get_parameter(name.format(i)) - plain.get_parameter(name.format(i)) for i in (0, 1))
    together = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
    assert first.shape == second.shape and abs(float(together)) < 0.2


def test_noise_of_scale_zero_gives_the_weights_back():
    model, plain = zoo.tiny("gpt2"), dict(zoo.tiny("gpt2").named_parameters())
    noise = Noise(model, 3)
    noise.apply(0.7)
    assert not torch.equal(
        model.get_parameter("transformer.h.0.mlp.c_fc.weight"), plain["transformer.h.0.mlp.c_fc.weight"]
    )
    noise.apply(0.0)
    assert all(torch.equal(value, plain[name]) for name, value in model.named_parameters())


def test_the_mean_by_text_weighs_texts_alike():
    """A text of 3 tokens counts as much as one of 24: what attacks report as clean loss is a mean over texts."""
    model, (inputs, targets) = fitted(), text(2)
    targets[0, 3:] = -100
    each = [mean_nll(model, inputs[row : row + 1], targets[row : row + 1]) for row in range(2)]
    assert mean_nll(model, inputs, targets, by_text=True) == pytest.approx(sum(each) / 2)
    assert mean_nll(model, inputs, targets) == pytest.approx((3 * each[0] + 24 * each[1]) / 27)


@pytest.mark.parametrize("kind", ["tempered", "noised"])
def test_a_target_better_than_the_reference_is_not_applicable(kind):
    reference, blocks = fitted(), text()
    control = make_control(kind, reference, mean_nll(reference, *blocks) - 0.1, *blocks, tolerance=1e-3)
    assert not control.found and control.reason.startswith("not applicable") and control.setting is None
    assert control.model is reference


def test_a_target_that_no_temperature_reaches_is_not_applicable():
    control = make_control("tempered", fitted(), 50.0, *text(), tolerance=1e-3)
    assert not control.found


def test_a_checkpoint_is_a_point_of_the_curve_as_it_is():
    reference, blocks = fitted(), text()
    control = make_control("early", reference, mean_nll(reference, *blocks), *blocks, tolerance=1e-3)
    assert control.found and control.model is reference and control.report()["difference"] == 0


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ConfigurationError, match=r'"frozen".*tempered, noised, early'):
        make_control("frozen", zoo.tiny("gpt2"), 1.0, *text(), tolerance=1e-3)


def test_solve_finds_roots_and_says_when_there_is_none():
    assert solve(lambda x: x**3 - 8, 1, 64, 1e-9) == pytest.approx(2, rel=1e-6)
    assert solve(lambda x: x - 1, 1, 64, 1e-9) == 1
    assert solve(lambda x: x + 1, 0, 8, 1e-9) is None and solve(lambda x: x - 9, 0, 8, 1e-9) is None
    assert solve(lambda x: x - 0.3, 0.0, 8, 1e-12) == pytest.approx(0.3)


def stream(tokens):
    return zoo.random_ids(1, tokens // 16)[0].repeat_interleave(16)


def split(folder, tokens=4000):
    """A tokenised split in the format of tokenize_split.py, of tokens that mostly repeat: what `fitted` knows."""
    folder.mkdir(parents=True)
    ids = stream(tokens).numpy().astype(np.uint16)
    ids.tofile(folder / "tokens.bin")
    row = {"document": "a", "start": 0, "length": tokens, "bytes": tokens, "words": tokens}
    pd.DataFrame([row]).to_parquet(folder / "documents.parquet")
    facts = {"tokens": tokens, "dtype": "uint16", "fingerprint": "f", "bos": 0, "eos": 0, "document_start": "bos"}
    write_json(folder / "data.json", facts)
    return folder


def test_calibration_text_is_spread_over_the_split_and_repeats(tmp_path):
    folder = split(tmp_path / "train")
    ids = calibration_ids(folder, 256, 64)
    assert ids.shape == (4, 64) and torch.equal(ids, calibration_ids(folder, 256, 64))
    whole = stream(4000)
    assert torch.equal(ids[0], whole[:64]) and torch.equal(ids[-1], whole[61 * 64 : 62 * 64])
    assert calibration_ids(folder, 10**6, 64).shape == (62, 64)
    inputs, targets = calibration_blocks(folder, 64, 64)
    assert torch.equal(inputs[0, 1:], targets[0, :-1])


def program(root, name, arguments, monkeypatch):
    spec = importlib.util.spec_from_file_location(f"program_{name}", root / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return module.main()


def test_the_programs_make_a_start_and_a_control(root, tmp_path, monkeypatch, capsys):
    data, base = split(tmp_path / "data/train"), tmp_path / "base"
    save_model(fitted(), zoo.tiny_tokenizer(), base)
    constraint = Constraint(scope="mlp_both", init="nnls", calibration=Calibration(tokens=256))
    settings = json.dumps({"constraint": as_mapping(constraint), "length": 64})
    start, paper = tmp_path / "starts/a/model", tmp_path / "starts/a/certificate.json"
    arguments = ["--settings", settings, "--base", base, "--train", data, "--model", start, "--certificate", paper]
    assert not program(root, "apply_monotonicity", arguments, monkeypatch)
    assert read_json(paper)["verdict"] == "conditional" and "conditional" in capsys.readouterr().out
    expected = constrain(load_model(base), constraint, calibration_ids(data, 256, 64))
    for name, value in load_model(start).named_parameters():
        assert torch.equal(value, expected.get_parameter(name))

    out = tmp_path / "runs/a~tempered"
    paths = {name: out / name for name in ("model", "history.csv", "certificate.json", "train.json")}
    outputs = zip(["--model", "--history", "--certificate", "--marker"], paths.values(), strict=True)
    inputs = ["--reference", base, "--arm", start, "--validation", data]
    settings = json.dumps({"kind": "tempered", "constraint": as_mapping(constraint), "length": 64, "tolerance": 1e-3})
    both = [*inputs, *[item for pair in outputs for item in pair]]
    assert not program(root, "control", ["--settings", settings, *both], monkeypatch)
    result = read_json(paths["train.json"])["result"]
    assert result["control"]["found"] and result["control"]["setting"] > 1
    assert result["final_loss"] == pytest.approx(result["control"]["target_nats_per_token"], abs=2e-3)
    assert result["final_loss"] == pytest.approx(
        mean_nll(load_model(paths["model"]), *calibration_blocks(data, 4096, 64))
    )
    assert paths["history.csv"].read_text().count("\n") == 2
    first = paths["train.json"].read_bytes()
    assert not program(root, "control", ["--settings", settings, *both], monkeypatch)
    assert paths["train.json"].read_bytes() == first  # nothing in it depends on time or place

    shared = tmp_path / "attack"
    shared.mkdir()
    ids = [calibration_ids(data, 4096, 64)[row, :length].numpy() for row, length in enumerate((40, 40, 17))]
    texts = [Document(f"text {index}", each, np.array([1])) for index, each in enumerate(ids)]
    write_manifest(shared, texts, [], Vocabulary(np.array([1]), ["a"] * 4, np.zeros(4, np.int64)), {})
    assert not program(root, "control", ["--settings", settings, *both, "--documents", shared], monkeypatch)
    found = read_json(paths["train.json"])["result"]["control"]
    prefix = prefix_token(load_tokenizer(base), "bos")

    def clean_loss(folder):
        """What attack rows say: each text's mean, averaged."""
        scorer = Scorer(load_model(folder), prefix)
        return np.mean([scorer.texts(torch.from_numpy(each[None])).double().numpy().mean() for each in ids])

    assert found["matched_on"] == "attacked"
    assert found["target_nats_per_token"] == pytest.approx(clean_loss(start), abs=1e-5)
    assert clean_loss(paths["model"]) == pytest.approx(clean_loss(start), abs=1.1e-3)
    assert abs(result["final_loss"] - read_json(paths["train.json"])["result"]["final_loss"]) > 1e-3  # other text

    early = json.dumps({"kind": "early", "length": 64})
    without = [word for pair in zip(both[::2], both[1::2], strict=True) if pair[0] != "--arm" for word in pair]
    without[without.index("--reference") + 1] = start
    assert not program(root, "control", ["--settings", early, *without, "--tokenizer", base], monkeypatch)
    assert read_json(paths["train.json"])["result"]["control"]["found"]
    assert records.folder_digest(paths["model"], "*.safetensors") == records.folder_digest(start, "*.safetensors")
    with pytest.raises(ConfigurationError, match=r"a checkpoint \(early\) matches none"):
        program(root, "control", ["--settings", early, *both], monkeypatch)

    found = [tmp_path / "calibration.json", tmp_path / "again.json"]
    command = ["--settings", '{"length": 64}', "--models", base, start, "--validation", data, "--markers", *found]
    assert not program(root, "calibrate", command, monkeypatch)
    temperatures = [read_json(path)["result"]["temperature"] for path in found]
    again = best_temperature(load_model(base), *calibration_blocks(data, 64 * 64, 64))
    assert temperatures[0] == again["temperature"] != temperatures[1]
    with pytest.raises(ConfigurationError, match="one marker per model"):
        program(root, "calibrate", command[:-1], monkeypatch)
