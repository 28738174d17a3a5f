"""A model that the study defines: random weights, a tokenizer trained on the training split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotone.config.data import Architecture
from isotone.data.splits import read_documents
from isotone.data.tokenizer import train_tokenizer
from isotone.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def configuration_of(architecture: Architecture, end: int = 0, pad: int | None = None) -> PreTrainedConfig:
    """The Hugging Face configuration of an architecture.

    Args:
        end: id of the token that begins and ends documents.
        pad: of pairs, id of the token that pads, and with which a decoder starts.
    """
    from transformers import GPTNeoXConfig, LlamaConfig, T5Config

    if architecture.family == "t5":
        facts: dict[str, Any] = {
            "vocab_size": architecture.vocabulary,
            "d_model": architecture.hidden,
            "d_kv": architecture.hidden // architecture.heads,
            "d_ff": architecture.intermediate,
            "num_layers": architecture.layers,
            "num_heads": architecture.heads,
            "feed_forward_proj": "relu" if architecture.activation == "relu" else "gated-gelu",
            "dropout_rate": 0.0,
            "pad_token_id": pad,
            "eos_token_id": end,
            "decoder_start_token_id": pad,
            "bos_token_id": None,
        }
        return T5Config(**facts)
    common: dict[str, Any] = {
        "vocab_size": architecture.vocabulary,
        "hidden_size": architecture.hidden,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "intermediate_size": architecture.intermediate,
        "hidden_act": architecture.activation,
        "max_position_embeddings": architecture.context,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": False,
    }
    if architecture.family == "llama":
        return LlamaConfig(num_key_value_heads=architecture.heads, rms_norm_eps=1e-5, **common)
    return GPTNeoXConfig(use_parallel_residual=True, attention_dropout=0.0, hidden_dropout=0.0, **common)


def new_model(
    architecture: Architecture, documents: Path, seed: int, attention: str = "sdpa"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Train the tokenizer on ``documents`` and draw the initial weights from ``seed``.

    Raises:
        ConfigurationError: if the text is too small for the vocabulary.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    pairs = architecture.family == "t5"
    texts = (
        text
        for row in read_documents(documents)
        for text in ((row["source"], row["text"]) if pairs else (row["text"],))
    )
    tokenizer = train_tokenizer(texts, architecture.vocabulary, architecture.context, pairs=pairs)
    if len(tokenizer) < architecture.vocabulary:
        raise ConfigurationError(
            f"model.architecture.vocabulary is {architecture.vocabulary}, but the training text yields only "
            f"{len(tokenizer)} tokens. Lower it to that, or give more text."
        )
    torch.manual_seed(seed)
    loader: Any = AutoModelForSeq2SeqLM if pairs else AutoModelForCausalLM
    model = loader.from_config(
        configuration_of(architecture, tokenizer.eos_token_id, tokenizer.pad_token_id),
        dtype=torch.float32,
        attn_implementation=attention,
    )
    return model, tokenizer
