"""Tiny random models of every family, and a tiny tokenizer. Nothing is downloaded."""

from __future__ import annotations

import functools

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MT5Config,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    UMT5Config,
)

VOCABULARY = 320
WIDTH = 32
# What families look like from outside; the library's own table is never asked here.
CENTRING = ["gpt_neox", "gpt2", "opt"]  # plain nets behind LayerNorm
GATED_DECODERS = ["llama", "mistral", "qwen2"]
DECODERS = [*CENTRING, *GATED_DECODERS, "olmo"]
PLAIN_LATER = ["gptj", "bloom", "falcon", "mpt", "phi", "persimmon", "nemotron", "starcoder2"]  # LayerNorm too
GATED_LATER = ["qwen3", "smollm3", "granite", "phi3", "olmo2", "gemma2", "gemma3_text"]  # RMSNorm
GATED_CENTRING = ["olmo", "stablelm", "cohere"]
EXPERTS = ["qwen3_moe", "mixtral"]
LATER = [*PLAIN_LATER, *GATED_LATER, "stablelm", "cohere", *EXPERTS]
EARLIER = [*DECODERS, "t5", "t5_gated"]
PAIRED = ["t5", "t5_gated", "mt5_gated", "umt5_gated"]  # encoders and decoders
FAMILIES = [*DECODERS, *PAIRED, *LATER]
ALL_CENTRING = [*CENTRING, *PLAIN_LATER, *GATED_CENTRING]
NO_NORM_IN_FRONT = ["olmo2"]

_TEXT = [
    "In the beginning was the word, and the word was heard by many people.",
    "The river runs slowly through the valley; the people walk beside it and sing.",
    "And it came to pass that the king said unto the people: go, and return before the morning.",
]


# Beside the sizes that all share: odd values wherever a family scales, caps, shifts or skips something.
_SETTINGS: dict[str, dict] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "olmo": {},
    "qwen3": {"head_dim": 8},
    "smollm3": {"no_rope_layer_interval": 2},
    "granite": {"logits_scaling": 3.0, "embedding_multiplier": 5.0, "residual_multiplier": 0.4},
    "phi3": {"attention_dropout": 0.0, "resid_pdrop": 0.0},
    "olmo2": {},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0, "sliding_window": 4096},
    "gemma3_text": {"head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 4096},
    "stablelm": {"use_qkv_bias": True},
    "cohere": {"logit_scale": 0.25},
    "phi": {},
    "persimmon": {},
    "nemotron": {"head_dim": 8, "mlp_bias": True},
    "starcoder2": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "head_dim": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gptj": {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "bloom": {"hidden_size": WIDTH, "n_layer": 2, "n_head": 4},
    "falcon": {"ffn_hidden_size": 64, "bias": True, "num_ln_in_parallel_attn": 1},
    "mpt": {"d_model": WIDTH, "n_layers": 2, "n_heads": 4},
}
_CONTEXT = {"gptj": "n_positions", "mpt": "max_seq_len", "bloom": "seq_length"}
_ACTIVATION = {"gptj": "activation_function", "falcon": "activation"} | dict.fromkeys(
    ("gemma2", "gemma3_text"), "hidden_activation"
)


def _settings(family: str, vocabulary: int, context: int, activation: str | None) -> dict:
    shared = {
        "vocab_size": vocabulary,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
        _CONTEXT.get(family, "max_position_embeddings"): context,
    }
    own = _SETTINGS[family]
    if family not in ("gptj", "bloom", "mpt"):
        shared |= {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "tie_word_embeddings": False}
        shared |= {} if family == "falcon" else {"intermediate_size": 48, "num_key_value_heads": 2}
    if family in ("phi3", "phi", "persimmon"):
        shared["num_key_value_heads"] = 4
    if activation:
        shared[_ACTIVATION.get(family, "hidden_act")] = activation
    return shared | own


def tiny(
    family: str, *, seed: int = 0, vocabulary: int = VOCABULARY, context: int = 64, **more: object
) -> PreTrainedModel:
    """A random model of 2 layers and width 32 in evaluation mode; the same for the same arguments.

    ``more`` goes into the configuration (``hidden_act``, ``use_parallel_residual``, ...). Norm gains and
    biases are random too: a fresh model's are trivial and would hide mistakes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(family, vocabulary, context, dict(more))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif "experts" in name or ".gate.weight" in name:
                    parameter.normal_(std=0.1)
                elif "embed" not in name and "shared" not in name and "wte" not in name and "wpe" not in name:
                    parameter.mul_(4.0)  # transformers starts at 0.02, where every net is nearly linear
    return model.float().eval()


def _build(family: str, vocabulary: int, context: int, more: dict) -> PreTrainedModel:
    activation = more.pop("hidden_act", None)
    special = {"bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt_neox":
        return GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=vocabulary,
                hidden_size=WIDTH,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=context,
                hidden_act=activation or "gelu",
                **special,
                **more,
            )
        )
    if family == "gpt2":
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary,
                n_embd=WIDTH,
                n_layer=2,
                n_head=4,
                n_positions=context,
                activation_function=activation or "gelu_new",
                **dropout,
                **special,
                **more,
            )
        )
    if family == "opt":
        return OPTForCausalLM(
            OPTConfig(
                vocab_size=vocabulary,
                hidden_size=WIDTH,
                word_embed_proj_dim=WIDTH,
                ffn_dim=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=context,
                activation_function=activation or "relu",
                dropout=0.0,
                pad_token_id=1,
                **special,
                **more,
            )
        )
    if family in PAIRED:
        kind = {"mt5_gated": MT5Config, "umt5_gated": UMT5Config}.get(family, T5Config)
        projection = activation or ("relu" if family == "t5" else "gated-gelu")
        return AutoModelForSeq2SeqLM.from_config(
            kind(
                vocab_size=vocabulary,
                d_model=WIDTH,
                d_kv=8,
                d_ff=48,
                num_layers=2,
                num_heads=4,
                feed_forward_proj=projection,
                dropout_rate=0.0,
                decoder_start_token_id=0,
                pad_token_id=0,
                eos_token_id=1,
            )
        )
    config = AutoConfig.for_model(family, **_settings(family, vocabulary, context, activation) | more)
    return AutoModelForCausalLM.from_config(config)


@functools.cache
def tiny_tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the one special token ``<|endoftext|>`` = BOS = EOS = id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def random_ids(batch: int, length: int, *, seed: int = 0, vocabulary: int = VOCABULARY) -> torch.Tensor:
    """Random token ids [batch, length] without the special token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, vocabulary, (batch, length), generator=generator)
