"""Tiny random models of every family, and a tiny tokenizer. Nothing is downloaded."""

from __future__ import annotations

import functools

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

VOCABULARY = 320
WIDTH = 32
CENTRING = ["gpt_neox", "gpt2", "opt"]
GATED_DECODERS = ["llama", "mistral", "qwen2"]
DECODERS = [*CENTRING, *GATED_DECODERS, "olmo"]
FAMILIES = [*DECODERS, "t5", "t5_gated"]

_TEXT = [
    "In the beginning was the word, and the word was heard by many people.",
    "The river runs slowly through the valley; the people walk beside it and sing.",
    "And it came to pass that the king said unto the people: go, and return before the morning.",
]


def _llama_like(
    config: type, model: type, vocabulary: int, context: int, activation: str, **more: object
) -> PreTrainedModel:
    return model(
        config(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=context,
            hidden_act=activation,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=None,
            tie_word_embeddings=False,
            **more,
        )
    )


def _t5(vocabulary: int, projection: str) -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary,
            d_model=WIDTH,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            feed_forward_proj=projection,
            dropout_rate=0.0,
            decoder_start_token_id=0,
        )
    )


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
    if family in ("t5", "t5_gated"):
        return _t5(vocabulary, activation or ("relu" if family == "t5" else "gated-gelu"))
    config, model = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "olmo": (OlmoConfig, OlmoForCausalLM),
    }[family]
    return _llama_like(config, model, vocabulary, context, activation or "silu", **more)


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
