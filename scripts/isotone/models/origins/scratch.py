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


def configuration_of(architecture: Architecture, end: int = 0) -> PreTrainedConfig:
    """The Hugging Face configuration of an architecture.

    Args:
        end: id of the token that begins and ends documents.
    """
    from transformers import GPTNeoXConfig, LlamaConfig

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
    from transformers import AutoModelForCausalLM

    tokenizer = train_tokenizer(
        (row["text"] for row in read_documents(documents)), architecture.vocabulary, architecture.context
    )
    if len(tokenizer) < architecture.vocabulary:
        raise ConfigurationError(
            f"model.architecture.vocabulary is {architecture.vocabulary}, but the training text yields only "
            f"{len(tokenizer)} tokens. Lower it to that, or give more text."
        )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        configuration_of(architecture, tokenizer.eos_token_id), dtype=torch.float32, attn_implementation=attention
    )
    return model, tokenizer
