"""The architecture families that Isotone knows, one row each: ALL that it knows of them stands here.

A role is what a matrix does (``ffn_in``, ``ffn_gate``, ``ffn_up``, ``ffn_out``, ``attention_out``), never a
piece of its name: the same substring means different things in different families. This module needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from isotone.errors import ConfigurationError
from isotone.models.family import Family, Logits

if TYPE_CHECKING:
    from torch import nn

GATE_UP_DOWN = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_out": "mlp.down_proj"}
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
T5_GATED = {"ffn_gate": "wi_0", "ffn_up": "wi_1", "ffn_out": "wo"}
NEOX_NET = {"ffn_in": "mlp.dense_h_to_4h", "ffn_out": "mlp.dense_4h_to_h"}


def _llama_like(name: str, **more: Any) -> Family:
    facts: dict[str, Any] = {
        "stacks": ("model.layers",),
        "roles": GATE_UP_DOWN,
        "attention_out": ("self_attn.o_proj",),
        "norm": "post_attention_layernorm",
        "activation": "mlp.act_fn",
        "final_norm_path": "model.norm",
        "centres": False,
    }
    return Family(name=name, **{**facts, **more})


def _gemma(name: str, **more: Any) -> Family:
    return _llama_like(
        name,
        norm="pre_feedforward_layernorm",
        norm_behind=True,
        gain_offset=1.0,
        activation_key="hidden_activation",
        logits=Logits(cap="final_logit_softcapping"),
        **more,
    )


def _experts(name: str) -> Family:
    # The experts of a layer are one module with stacked tensors; some layers of Qwen3-MoE may be plain gated nets.
    return _llama_like(
        name,
        roles={
            "ffn_gate": "mlp.experts.gate_up_proj[0/2]|mlp.gate_proj",
            "ffn_up": "mlp.experts.gate_up_proj[1/2]|mlp.up_proj",
            "ffn_out": "mlp.experts.down_proj|mlp.down_proj",
        },
        activation="mlp.experts.act_fn|mlp.act_fn",
    )


def _t5(name: str, roles: Mapping[str, str], tied_scale: str = "scale_decoder_outputs") -> Family:
    return Family(
        name=name,
        stacks=("encoder.block", "decoder.block"),
        feed_forward_index={"encoder.block": "layer.1", "decoder.block": "layer.2"},
        roles={role: f"{{ffn}}.DenseReluDense.{path}" for role, path in roles.items()},
        attention_out=("layer.0.SelfAttention.o", "layer.1.EncDecAttention.o"),
        norm="{ffn}.layer_norm",
        activation="{ffn}.DenseReluDense.act",
        final_norm_path="decoder.final_layer_norm",
        centres=False,
        activation_key="feed_forward_proj",
        logits=Logits(tied_scale=tied_scale),
    )


ROWS = (
    Family(
        name="gpt_neox",
        stacks=("gpt_neox.layers",),
        roles=NEOX_NET,
        attention_out=("attention.dense",),
        norm="post_attention_layernorm",
        activation="mlp.act",
        final_norm_path="gpt_neox.final_layer_norm",
        centres=True,
    ),
    Family(
        name="gpt2",
        stacks=("transformer.h",),
        roles={"ffn_in": "mlp.c_fc", "ffn_out": "mlp.c_proj"},
        attention_out=("attn.c_proj",),
        norm="ln_2",
        activation="mlp.act",
        final_norm_path="transformer.ln_f",
        centres=True,
        transposed=True,
        activation_key="activation_function",
    ),
    Family(
        name="gptj",
        stacks=("transformer.h",),
        roles={"ffn_in": "mlp.fc_in", "ffn_out": "mlp.fc_out"},
        attention_out=("attn.out_proj",),
        norm="ln_1",
        beside={"ln_1": ("attn.q_proj", "attn.k_proj", "attn.v_proj")},
        activation="mlp.act",
        final_norm_path="transformer.ln_f",
        centres=True,
        activation_key="activation_function",
        attention="eager",
    ),
    Family(
        name="opt",
        stacks=("model.decoder.layers",),
        roles={"ffn_in": "fc1", "ffn_out": "fc2"},
        attention_out=("self_attn.out_proj",),
        norm="final_layer_norm",
        in_front_key="do_layer_norm_before",
        activation="activation_fn",
        final_norm_path="model.decoder.final_layer_norm",
        centres=True,
        activation_key="activation_function",
    ),
    Family(
        name="bloom",
        stacks=("transformer.h",),
        roles=NEOX_NET,
        attention_out=("self_attention.dense",),
        norm="post_attention_layernorm",
        activation="mlp.gelu_impl",
        fixed_activation="gelu_new",
        final_norm_path="transformer.ln_f",
        centres=True,
        attention="eager",
    ),
    Family(
        name="falcon",
        stacks=("transformer.h",),
        roles=NEOX_NET,
        attention_out=("self_attention.dense",),
        norm="ln_mlp|post_attention_layernorm|input_layernorm",
        beside={"input_layernorm": ("self_attention.query_key_value",)},
        activation="mlp.act",
        final_norm_path="transformer.ln_f",
        centres=True,
        activation_key="activation",
    ),
    Family(
        name="mpt",
        stacks=("transformer.blocks",),
        roles={"ffn_in": "ffn.up_proj", "ffn_out": "ffn.down_proj"},
        attention_out=("attn.out_proj",),
        norm="norm_2",
        activation="ffn.act",
        fixed_activation="gelu",
        final_norm_path="transformer.norm_f",
        centres=True,
        attention="eager",
    ),
    Family(
        name="phi",
        stacks=("model.layers",),
        roles={"ffn_in": "mlp.fc1", "ffn_out": "mlp.fc2"},
        attention_out=("self_attn.dense",),
        norm="input_layernorm",
        beside={"input_layernorm": QKV},
        activation="mlp.activation_fn",
        final_norm_path="model.final_layernorm",
        centres=True,
    ),
    Family(
        name="persimmon",
        stacks=("model.layers",),
        roles=NEOX_NET,
        attention_out=("self_attn.dense",),
        norm="post_attention_layernorm",
        activation="mlp.act",
        final_norm_path="model.final_layernorm",
        centres=True,
    ),
    _llama_like("nemotron", roles={"ffn_in": "mlp.up_proj", "ffn_out": "mlp.down_proj"}, centres=True, gain_offset=1.0, bias_key="mlp_bias"),
    _llama_like("starcoder2", roles={"ffn_in": "mlp.c_fc", "ffn_out": "mlp.c_proj"}, activation="mlp.act", centres=True),
    _llama_like("llama", bias_key="mlp_bias"),
    _llama_like("mistral"),
    _llama_like("qwen2"),
    _llama_like("qwen3"),
    _llama_like("smollm3", bias_key="mlp_bias"),
    _llama_like("granite", bias_key="mlp_bias", logits=Logits(over="logits_scaling")),
    _llama_like(
        "phi3",
        roles={"ffn_gate": "mlp.gate_up_proj[0/2]", "ffn_up": "mlp.gate_up_proj[1/2]", "ffn_out": "mlp.down_proj"},
        activation="mlp.activation_fn",
    ),
    _llama_like("olmo", centres=True),
    _llama_like("olmo2", norm="", norm_behind=True),
    _llama_like(
        "stablelm", norm="post_attention_layernorm|input_layernorm", beside={"input_layernorm": QKV}, centres=True
    ),
    _llama_like(
        "cohere",
        norm="input_layernorm",
        beside={"input_layernorm": QKV},
        centres=True,
        logits=Logits(times="logit_scale"),
    ),
    _gemma("gemma2", attention="eager"),
    _gemma("gemma3_text"),
    _experts("qwen3_moe"),
    _experts("mixtral"),
    _t5("t5", {"ffn_in": "wi", "ffn_out": "wo"}),
    _t5("t5_gated", T5_GATED),
    _t5("mt5_gated", T5_GATED, tied_scale=""),
    _t5("umt5_gated", T5_GATED, tied_scale="tie_word_embeddings"),
)  # fmt: skip
FAMILIES: dict[str, Family] = {row.name: row for row in ROWS}


def family_of_config(config: Any) -> Family | None:
    """The row of a configuration (a mapping as in config.json, or transformers' object); None if there is none."""
    if isinstance(config, Mapping):
        gated = str(config.get("feed_forward_proj", "")).startswith("gated-")
        name = str(config.get("model_type"))
    else:
        gated, name = bool(getattr(config, "is_gated_act", False)), config.model_type
    return FAMILIES.get(f"{name}_gated" if gated else name)


def family_of(model: nn.Module) -> Family:
    """The table row of a model.

    Raises:
        ConfigurationError: if the library does not know the family; says what the model's blocks look like and
            what a row needs.
    """
    row = family_of_config(model.config)
    if row is not None:
        return row
    config: Any = model.config
    raise ConfigurationError(
        f'This model\'s family is "{config.model_type}", which Isotone does not know. It knows: {", ".join(FAMILIES)}. '
        f"{describe_blocks(model)} A row in isotone/models/families.py says where the blocks are (stacks), which module "
        "has which role (ffn_in and ffn_out, or ffn_gate, ffn_up and ffn_out; attention_out), which norm stands in front "
        "of the feed-forward net and whether it subtracts the mean (centres), the activation and the configuration's key "
        "for it, and the last norm (final_norm_path). CONTRIBUTING.md goes through one. Or choose another model."
    )


def describe_blocks(model: nn.Module) -> str:
    """In words: the longest list of blocks in a model, and the modules with weights inside its first block."""
    lists = {name: module for name, module in model.named_modules() if type(module).__name__ == "ModuleList"}
    if not lists:
        return "It has no list of blocks."
    name = max(lists, key=lambda each: len(lists[each]))
    block = next(lists[name].children())
    parts = [
        f"{path} ({type(module).__name__})"
        for path, module in block.named_modules()
        if path and (list(module.parameters(recurse=False)) or not list(module.children()))
    ]
    return f"Its {len(lists[name])} blocks are {name}.*; the first has {', '.join(parts)}."
