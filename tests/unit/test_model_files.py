"""Folders that lack something, or hold something else than they say."""

from __future__ import annotations

import json
import struct

import models_zoo as zoo
import pytest
import torch
from isotone.config.data import Model
from isotone.errors import ConfigurationError
from isotone.models import load_model, load_tokenizer, save_model
from isotone.models.files import check_files
from isotone.models.folder import Loading
from isotone.models.origins import open_model
from isotone.models.origins.facts import check_fit
from isotone.planning.preflight import check_study
from isotone.studies.study import read_study
from safetensors.torch import load_file, save_file

IDS = zoo.random_ids(2, 9)


@pytest.fixture
def folder(tmp_path):
    save_model(zoo.tiny("llama"), zoo.tiny_tokenizer(), tmp_path / "m")
    return tmp_path / "m"


def settings(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def split(folder):
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, keys in parts.items():
        save_file({key: weights[key] for key in keys}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def absent_shard(folder):
    split(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def absent_index(folder):
    split(folder)
    (folder / "model.safetensors.index.json").unlink()


def empty_shard(folder):
    split(folder)
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"")


def pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")


def adapter(folder):
    (folder / "model.safetensors").unlink()
    save_file({"lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")


def cut(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])


def huge_header(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")


def eight_bits(folder):
    weights = load_file(folder / "model.safetensors")
    changed = {name: value.to(torch.float8_e4m3fn) if "proj" in name else value for name, value in weights.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})


CASES = {
    "absent shard": (absent_shard, r"names model-00002-of-00002\.safetensors, which is not there"),
    "absent index": (absent_index, r"neither model\.safetensors nor model\.safetensors\.index\.json"),
    "empty shard": (empty_shard, "damaged weights: it is 0 bytes"),
    "pointer": (pointer, "git lfs pull"),
    "adapter": (adapter, "merge_and_unload"),
    "cut": (cut, r"damaged weights: it is \d+ bytes long and should have \d+"),
    "header": (huge_header, "shorter than it says"),
    "gptq": (lambda f: settings(f, quantization_config={"quant_method": "gptq"}), r"quantised weights \(gptq\)"),
    "fp8": (eight_bits, "type F8_E4M3"),
    "more layers": (lambda f: settings(f, num_hidden_layers=1), "have 2 layers, but config.json names 1"),
    "cut config": (lambda f: (f / "config.json").write_text('{"model_type": "lla'), r"config\.json cannot be read"),
    "list": (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_folder_lacks_is_said_before_any_job_and_by_setup(folder, case):
    change, message = CASES[case]
    change(folder)
    study = {"study": "x", "model": {"source": "local", "path": str(folder)}, "arms": {"baseline": {}}}
    with pytest.raises(ConfigurationError, match=message):
        check_study(read_study(study, "x"), "x")
    with pytest.raises(ConfigurationError, match=message):
        open_model(Model(source="local", path=str(folder)))


@pytest.mark.parametrize(("key", "value"), [("num_hidden_layers", 4), ("hidden_size", 64), ("vocab_size", 300)])
def test_weights_of_another_model_are_refused(folder, key, value):
    settings(folder, **{key: value})
    with pytest.raises(ConfigurationError, match=r"lacks|cannot be loaded"):
        open_model(Model(source="local", path=str(folder)))


def test_shards_pickles_beside_weights_and_unknown_quantisers_are_no_obstacle(folder, tmp_path):
    own = load_model(folder)(IDS).logits
    split(folder)
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    settings(folder, quantization_config={"quant_method": "mystery"})
    model, tokenizer = open_model(Model(source="local", path=str(folder)))
    assert torch.equal(model(IDS).logits, own)
    save_model(model, tokenizer, tmp_path / "base")
    assert "quantization_config" not in check_files(tmp_path / "base")


def test_how_a_model_is_loaded_travels_with_its_folder(folder, tmp_path):
    model, tokenizer = open_model(Model(source="local", path=str(folder), attention="eager"))
    assert model.config._attn_implementation == "eager"
    save_model(model, tokenizer, tmp_path / "base")
    again = load_model(tmp_path / "base")
    assert again.config._attn_implementation == "eager"
    save_model(again, None, tmp_path / "arm")
    record = Loading.of(check_files(tmp_path / "arm"))
    assert record == Loading("eager", {"source": "local", "path": "m"})
    assert load_model(folder).config._attn_implementation == "sdpa"
    settings(folder, isotone={"attention": "sdpa", "origin": {"source": "hub", "name": "else/where"}})
    model, _ = open_model(Model(source="local", path=str(folder), attention="eager"))  # settings stand above a record
    assert model.config._attn_implementation == "eager" and model.config.isotone["origin"]["source"] == "local"


@pytest.mark.parametrize("family", ["gptj", "bloom", "mpt", "gemma2"])
def test_a_family_with_one_attention_takes_that_one(family, tmp_path):
    save_model(zoo.tiny(family), zoo.tiny_tokenizer(), tmp_path / "m")
    model, _ = open_model(Model(source="local", path=str(tmp_path / "m")))
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("family", ["qwen2", "llama", "gpt2"])
def test_a_known_family_keeps_a_tokenizer_of_its_own(family, tmp_path):
    save_model(zoo.tiny(family), zoo.tiny_tokenizer(), tmp_path / "m")
    path = tmp_path / "m" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    _, tokenizer = open_model(Model(source="local", path=str(tmp_path / "m")))
    text = "Don't HELLO 1234567 river\n\n  stone"
    assert tokenizer(text)["input_ids"] == zoo.tiny_tokenizer()(text)["input_ids"]
    assert len(tokenizer) == len(load_tokenizer(tmp_path / "m")) == zoo.VOCABULARY


def test_the_largest_id_decides_and_not_the_count_of_tokens():
    class Holes:
        eos_token_id = 0

        def __init__(self, largest):
            self.largest = largest

        def get_vocab(self):
            return {"<end>": 0, "<gap>": self.largest}

    model = zoo.tiny("llama")
    check_fit(model, Holes(zoo.VOCABULARY - 1), 64)
    with pytest.raises(ConfigurationError, match=r"'<gap>' the id 320, but its embedding has only 320 rows"):
        check_fit(model, Holes(zoo.VOCABULARY), 64)
