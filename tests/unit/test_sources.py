from __future__ import annotations

import json

import pytest
import torch
from isotone.config.data import Architecture, Model
from isotone.data.document import Document
from isotone.data.splits import SplitWriter
from isotone.errors import ConfigurationError
from isotone.models import load_tokenizer, save_model
from isotone.models.origins import open_model
from isotone.models.origins.causality import prove_causality
from isotone.models.origins.facts import check_fit, check_splitter, forward_pass, model_facts, parameter_counts
from isotone.models.origins.gguf import find_gguf
from isotone.schema import parse
from transformers import AutoModelForCausalLM

from tests.unit.models_zoo import DECODERS, tiny, tiny_tokenizer


def local(folder):
    return Model(source="local", path=str(folder))


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "model"
    save_model(tiny("gpt_neox"), tiny_tokenizer(), folder)
    return folder


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "train.parquet"
    writer = SplitWriter(path)
    for index in range(300):
        text = f"Number {index} of many sentences, and none of them says {index * 7919} again."
        writer.add(Document(str(index), text), "")
    writer.close({})
    return path


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_a_scratch_model_follows_from_its_seed(documents, family):
    architecture = Architecture(
        family=family, hidden=32, layers=2, heads=4, intermediate=48, context=64, vocabulary=300
    )
    models = [open_model(Model(architecture=architecture), documents=documents, seed=seed)[0] for seed in (1, 1, 2)]
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert models[0].config.model_type == family and weights[0].dtype == torch.float32
    assert not models[0].training


def test_a_vocabulary_that_the_text_cannot_fill_is_refused(documents):
    with pytest.raises(ConfigurationError, match="yields only"):
        open_model(Model(architecture=Architecture(vocabulary=5000)), documents=documents)


def test_uneven_heads_are_refused():
    with pytest.raises(ConfigurationError, match="multiple of twice the heads"):
        parse(Architecture, {"hidden": 100, "heads": 3})


def test_a_local_folder_loads_in_fp32(saved):
    model, tokenizer = open_model(local(saved))
    assert model.dtype == torch.float32 and len(tokenizer) == len(tiny_tokenizer())
    original = tiny("gpt_neox")
    ids = torch.arange(1, 20)[None]
    assert torch.equal(model(ids).logits, original(ids).logits)


def test_weights_that_are_missing_are_named(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ConfigurationError, match=r"lacks \d+ weights"):
        open_model(local(saved))


def test_damaged_weights_are_one_paragraph(saved):
    weights = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ConfigurationError, match=r"damaged|cannot be loaded"):
        open_model(local(saved))


def test_no_folder_no_configuration_no_weights(tmp_path, saved):
    with pytest.raises(ConfigurationError, match="is no folder"):
        open_model(local(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"no config\.json"):
        open_model(local(tmp_path / "empty"))
    (saved / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="holds no weights"):
        open_model(local(saved))


def test_gguf_files_are_found_inside_packages_and_never_outside(tmp_path):
    with pytest.raises(ConfigurationError, match="is not installed"):
        find_gguf("package:no-such-package/model.gguf")
    with pytest.raises(ConfigurationError, match="inside the package"):
        find_gguf("package:numpy/../../etc/passwd")
    with pytest.raises(ConfigurationError, match="does not exist"):
        find_gguf("package:numpy/absent.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ConfigurationError, match="no GGUF file"):
        find_gguf(str(tmp_path / "text.gguf"))


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_decoder_reads_left_to_right(family, attention, dtype):
    model = tiny(family)
    model.set_attn_implementation(attention)
    proof = prove_causality(model, 48, dtype)
    assert proof["positions"] == [1, 24, 47] and proof["worst_leak"] <= 1e-4


class Leaky(torch.nn.Module):
    """A model whose logits at each position also see the next token."""

    def __init__(self, share):
        super().__init__()
        self.inner, self.share = tiny("gpt_neox"), share
        self.config, self.device = self.inner.config, self.inner.device

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def forward(self, input_ids, **_):
        output = self.inner(input_ids)
        output.logits = output.logits + self.share * output.logits.roll(-1, dims=1)
        return output


@pytest.mark.parametrize("share", [1.0, 0.01])
def test_a_model_that_sees_the_future_is_refused(share):
    assert prove_causality(Leaky(0.0), 32, torch.float32)["worst_leak"] == 0
    with pytest.raises(ConfigurationError, match="sees the future"):
        prove_causality(Leaky(share), 32, torch.float32)


def test_a_model_that_reads_nothing_is_refused():
    model = tiny("gpt_neox")
    model.get_input_embeddings().weight.data[:] = 1.0
    with pytest.raises(ConfigurationError, match="does not read its input"):
        prove_causality(model, 32, torch.float32)


@pytest.mark.parametrize("family", DECODERS)
def test_parameter_counts(family):
    model = tiny(family)
    counts = parameter_counts(model)
    assert counts["total"] == sum(p.numel() for p in model.parameters())
    per_layer = (
        3 * 32 * 48 if family in ("llama", "mistral", "qwen2", "olmo") else 2 * 32 * (128 if family == "gpt2" else 64)
    )
    assert 2 * per_layer <= counts["feed_forward"] <= 2 * per_layer + 2 * (128 + 32)
    assert counts["embedding"] >= model.get_input_embeddings().weight.numel()


def test_lengths_and_tokens_that_do_not_fit_are_refused():
    model, tokenizer = tiny("gpt_neox"), tiny_tokenizer()
    check_fit(model, tokenizer, 64)
    with pytest.raises(ConfigurationError, match="context is 64"):
        check_fit(model, tokenizer, 65)
    with pytest.raises(ConfigurationError, match="do not belong together"):
        check_fit(tiny("gpt_neox", vocabulary=200), tokenizer, 64)


def test_the_forward_pass_is_a_plain_loss(saved):
    model, tokenizer = open_model(local(saved))
    text = "In the beginning was the word."
    found = forward_pass(model, tokenizer, text, 64)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    assert found["nats_per_token"] == pytest.approx(model(ids, labels=ids).loss.item(), abs=1e-4)
    model.get_input_embeddings().weight.data[:] = float("nan")
    with pytest.raises(ConfigurationError, match="gives the loss nan"):
        forward_pass(model, tokenizer, text, 64)


def test_the_saved_tokenizer_must_split_as_the_loaded_one(saved):
    tokenizer = load_tokenizer(saved)
    check_splitter(saved, tokenizer, ["In the beginning.", "  odd \t spaces"])
    assert model_facts(AutoModelForCausalLM.from_pretrained(saved), tokenizer)["tokenizer"]["eos"] == 0
    state = json.loads((saved / "tokenizer.json").read_text())
    state["pre_tokenizer"]["add_prefix_space"] = True
    (saved / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ConfigurationError, match="differently once it is saved"):
        check_splitter(saved, tokenizer, ["In the beginning."])
