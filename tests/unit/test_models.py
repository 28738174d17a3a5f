from __future__ import annotations

import json

import models_zoo as zoo
import pytest
import torch
from isotone.data.batch import Batch
from isotone.errors import ConfigurationError, InputOutputError
from isotone.models import (
    FAMILIES,
    embedding_of,
    family_of,
    head_of,
    hidden_states,
    load_model,
    load_tokenizer,
    prefix_token,
    save_model,
)
from isotone.records import folder_digest
from transformers import AutoModelForCausalLM


@pytest.mark.parametrize("family", zoo.DECODERS)
def test_hidden_states_and_head_give_the_models_own_logits(family):
    model, ids = zoo.tiny(family), zoo.random_ids(3, 17)
    head = head_of(model)
    logits = head.scale * torch.nn.functional.linear(hidden_states(model, ids), head.weight_VD, head.bias_V)
    torch.testing.assert_close(logits, model(ids).logits, rtol=0, atol=1e-6)
    embedded = hidden_states(model, inputs_embeds_BTD=embedding_of(model)(ids))
    torch.testing.assert_close(embedded, hidden_states(model, ids), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_every_role_is_found_in_every_layer_with_its_shape(family):
    model = zoo.tiny(family)
    row = family_of(model)
    sublayers = row.sublayers(model)
    assert row.name == family and len(sublayers) == len(row.layers(model)) == (4 if "t5" in family else 2)
    parameters = dict(model.named_parameters())
    for index, sublayer in enumerate(sublayers):
        assert sublayer.layer == index and sublayer.attention_out
        for projection in [*sublayer.entrances, sublayer.exit, *sublayer.attention_out]:
            assert parameters[projection.weight_name] is projection.parameter
        wide = sublayer.exit.weight_OI.shape[-1]
        assert wide > zoo.WIDTH and sublayer.exit.weight_OI.shape[-2] == zoo.WIDTH
        assert all(entrance.weight_OI.shape[-2:] == (wide, zoo.WIDTH) for entrance in sublayer.entrances)
        assert sublayer.norm is None or model.get_submodule(sublayer.norm_name) is sublayer.norm


@pytest.mark.parametrize("family", zoo.EARLIER)
def test_the_norm_in_the_table_is_what_the_feed_forward_net_reads(family):
    model = zoo.tiny(family)
    seen = {}
    for sublayer in family_of(model).sublayers(model):
        sublayer.norm.register_forward_hook(lambda _m, _i, out, k=sublayer.layer: seen.update({("norm", k): out}))
        for entrance in sublayer.entrances:
            entrance.module.register_forward_hook(
                lambda _m, inputs, _o, k=sublayer.layer, r=entrance.role: seen.update({(r, k): inputs[0]})
            )
    ids = zoo.random_ids(1, 8)
    model(ids, decoder_input_ids=ids) if "t5" in family else model(ids)
    for sublayer in family_of(model).sublayers(model):
        for entrance in sublayer.entrances:
            assert torch.equal(seen["norm", sublayer.layer], seen[entrance.role, sublayer.layer])


@pytest.mark.parametrize("family", zoo.EARLIER)
def test_centring_is_what_the_norms_do(family):
    model = zoo.tiny(family)
    norm = family_of(model).sublayers(model)[0].norm
    x = torch.randn(5, zoo.WIDTH)
    moved = (norm(x + 3.0) - norm(x)).abs().max().item()
    assert (moved < 1e-4) == family_of(model).centring(model)


def test_opt_with_norms_behind_its_sublayers_does_not_centre():
    model = zoo.tiny("opt", do_layer_norm_before=False)
    assert not family_of(model).centring(model)
    with pytest.raises(ConfigurationError, match="no norm in front"):
        family_of(model).final_norm(model)


def test_an_unknown_family_is_an_error_that_lists_the_known_ones():
    model = zoo.tiny("gpt2")
    model.config.model_type = "mamba"
    with pytest.raises(ConfigurationError, match=r'"mamba".*gpt_neox.*t5_gated'):
        family_of(model)
    assert set(FAMILIES) == set(zoo.FAMILIES)


@pytest.mark.parametrize("family", zoo.DECODERS)
def test_a_saved_folder_loads_in_plain_transformers_with_the_same_logits(family, tmp_path):
    model, ids = zoo.tiny(family), zoo.random_ids(2, 9)
    save_model(model, zoo.tiny_tokenizer(), tmp_path / "a")
    save_model(load_model(tmp_path / "a"), load_tokenizer(tmp_path / "a"), tmp_path / "b")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "a")(ids).logits, model(ids).logits)
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")
    assert load_tokenizer(tmp_path / "b").backend_tokenizer.to_str() == zoo.tiny_tokenizer().backend_tokenizer.to_str()
    assert str(tmp_path) not in (tmp_path / "b" / "config.json").read_text()


def test_a_bf16_model_is_written_as_fp32_and_stays_bf16(tmp_path):
    model = zoo.tiny("gpt_neox").bfloat16()
    save_model(model, None, tmp_path / "m")
    assert json.loads((tmp_path / "m/config.json").read_text())["dtype"] == "float32"
    assert model.dtype == torch.bfloat16 and load_model(tmp_path / "m").dtype == torch.float32


def test_folders_that_cannot_be_loaded_are_explained(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no config\.json"):
        load_model(tmp_path)
    save_model(zoo.tiny("gpt2"), None, tmp_path / "m")
    (tmp_path / "m/model.safetensors").rename(tmp_path / "m/pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"pytorch_model\.bin.*no pickles"):
        load_model(tmp_path / "m")
    with pytest.raises(ConfigurationError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    save_model(zoo.tiny("gpt2"), None, tmp_path / "n")
    config = tmp_path / "n/config.json"
    config.write_text(config.read_text().replace('"gpt2"', '"gpt_nonsense"'))
    with pytest.raises(ConfigurationError, match=r"n/config\.json.*gpt_nonsense"):
        load_model(tmp_path / "n")


def test_missing_weights_are_an_error_and_not_random_numbers(tmp_path):
    from safetensors.torch import load_file, save_file

    save_model(zoo.tiny("gpt_neox"), None, tmp_path / "m")
    weights = load_file(tmp_path / "m/model.safetensors")
    weights.pop(next(name for name in weights if "dense_h_to_4h.weight" in name))
    save_file(weights, tmp_path / "m/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match="lacks 1 weights"):
        load_model(tmp_path / "m")


def test_prefix_tokens():
    tokenizer = zoo.tiny_tokenizer()
    assert len(tokenizer) == zoo.VOCABULARY
    assert [prefix_token(tokenizer, start) for start in ("bos", "eos", "none")] == [0, 0, None]
    bare = type("Bare", (), {"bos_token_id": None, "eos_token_id": None})()
    with pytest.raises(ConfigurationError, match="neither BOS nor EOS"):
        prefix_token(bare, "bos")


def test_a_model_is_refused_sources_that_it_cannot_read_and_texts_without_any():
    ids = zoo.random_ids(1, 4)
    with pytest.raises(ConfigurationError, match=r"reads sources and targets: data\.task does not fit"):
        hidden_states(zoo.tiny("t5"), ids)
    with pytest.raises(ConfigurationError, match="llama has no encoder"):
        hidden_states(zoo.tiny("llama"), Batch(ids, ids, ids))


def test_damaged_weights_are_named(tmp_path):
    save_model(zoo.tiny("gpt_neox"), None, tmp_path / "m")
    with open(tmp_path / "m/model.safetensors", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputOutputError, match=r"/m: its model\.safetensors is damaged .* make or fetch it again"):
        load_model(tmp_path / "m")
