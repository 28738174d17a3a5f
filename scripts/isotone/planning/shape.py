"""Sizes, parameters and FLOPs of a model that nobody has loaded yet, from its configuration. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotone.config.data import Model, user_path
from isotone.environment import until
from isotone.errors import ConfigurationError
from isotone.models.families import family_of_config
from isotone.models.files import LAYER_KEYS, read_config

BUCKETS = 32  # of T5's relative positions
HEAD_KEYS = ("num_attention_heads", "n_head", "n_heads", "num_heads")


@dataclass(frozen=True)
class Shape:
    """What the size of a model follows from.

    Attributes:
        layers: all blocks; of an encoder-decoder model those of both.
        crossing: decoder blocks that also attend to an encoder (T5: no biases, two tables of relative positions).
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head: int
    vocabulary: int
    tied: bool
    gated: bool
    attention_bias: bool = False  # of a gated model's queries, keys and values
    crossing: int = 0

    @property
    def feed_forward(self) -> int:
        """Weights of all feed-forward nets, biases left out."""
        return self.layers * self.hidden * self.intermediate * (3 if self.gated else 2)

    @property
    def parameters(self) -> int:
        """All parameters; biases and norms as GPT-NeoX (plain) or Llama (gated) have them."""
        inner = self.heads * self.head
        outer = self.key_value_heads * self.head
        attention = self.hidden * (inner + 2 * outer) + inner * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        if self.crossing:
            crossed = self.crossing * (attention + self.hidden) + 2 * BUCKETS * self.heads
            return (
                self.layers * (attention + 2 * self.hidden) + crossed + self.feed_forward + embeddings + 2 * self.hidden
            )
        if self.gated:
            small = 2 * self.hidden + (inner + 2 * outer if self.attention_bias else 0)
            last = self.hidden
        else:
            small = inner + 2 * outer + self.hidden + self.intermediate + self.hidden + 4 * self.hidden
            last = 2 * self.hidden
        return self.layers * (attention + small) + self.feed_forward + embeddings + last

    @property
    def working(self) -> int:
        """Parameters that take part in a token's arithmetic: all but the table that is only looked up."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.hidden)

    def forward_flops(self, length: int) -> float:
        """FLOPs of one token's forward pass in a sequence of ``length``: 2 per parameter, and causal attention."""
        return 2.0 * self.working + 2.0 * self.layers * self.heads * self.head * length


def _neox(layers: int, hidden: int, heads: int, vocabulary: int = 50304) -> Shape:
    return Shape(layers, hidden, 4 * hidden, heads, heads, hidden // heads, vocabulary, False, False)


# Hidden sizes of models that the shipped configurations name (from their config.json).
KNOWN = {
    "EleutherAI/pythia-70m": _neox(6, 512, 8),
    "EleutherAI/pythia-160m": _neox(12, 768, 12),
    "EleutherAI/pythia-410m": _neox(24, 1024, 16),
    "EleutherAI/pythia-1.4b": _neox(24, 2048, 16),
    "EleutherAI/pythia-2.8b": _neox(32, 2560, 32),
    "EleutherAI/pythia-6.9b": _neox(32, 4096, 32, 50432),
    "meta-llama/Llama-3.2-1B": Shape(16, 2048, 8192, 32, 8, 64, 128256, True, True),
    "meta-llama/Llama-3.2-3B": Shape(28, 3072, 8192, 24, 8, 128, 128256, True, True),
    "meta-llama/Llama-3.1-8B": Shape(32, 4096, 14336, 32, 8, 128, 128256, False, True),
    "Qwen/Qwen2.5-1.5B": Shape(28, 1536, 8960, 12, 2, 128, 151936, True, True, True),
    "Qwen/Qwen2.5-7B": Shape(28, 3584, 18944, 28, 4, 128, 152064, False, True, True),
    "Qwen/Qwen3-0.6B": Shape(28, 1024, 3072, 16, 8, 128, 151936, True, True),
    "allenai/OLMo-2-0425-1B": Shape(16, 2048, 8192, 16, 16, 128, 100352, False, True),
    "HuggingFaceTB/SmolLM3-3B": Shape(36, 2048, 11008, 16, 4, 128, 128256, True, True),
    "google/gemma-2-2b": Shape(26, 2304, 9216, 8, 4, 256, 256000, True, True),
    "google/gemma-3-1b-pt": Shape(26, 1152, 6912, 4, 1, 256, 262144, True, True),
    "microsoft/phi-2": Shape(32, 2560, 10240, 32, 32, 80, 51200, False, False),
    "google-t5/t5-small": Shape(12, 512, 2048, 8, 8, 64, 32128, True, False, crossing=6),
    "SmolLM2-135M": Shape(30, 576, 1536, 9, 3, 64, 49152, True, True),
}


def _first(config: dict[str, Any], *keys: str) -> Any:
    """The value of the first key that says something; None if none does."""
    return next((config[key] for key in keys if config.get(key)), None)


def shape_of_config(config: dict[str, Any]) -> Shape:
    """The shape behind a Hugging Face config.json.

    All experts of a layer count as one wide net: right for memory, and more FLOPs than a token costs.

    Raises:
        KeyError: if it does not say.
    """
    row = family_of_config(config)
    gated = row is not None and row.gated
    hidden, heads = _first(config, "hidden_size", "n_embd", "d_model"), _first(config, *HEAD_KEYS)
    layers = _first(config, *LAYER_KEYS)
    if hidden is None or heads is None or layers is None:
        raise KeyError("hidden size, heads or layers")
    if config.get("is_encoder_decoder"):
        crossing = config.get("num_decoder_layers") or layers
        return Shape(
            layers=config.get("num_layers", layers) + crossing,
            hidden=hidden,
            intermediate=config["d_ff"],
            heads=heads,
            key_value_heads=heads,
            head=config["d_kv"],
            vocabulary=config["vocab_size"],
            tied=config.get("tie_word_embeddings", True),
            gated=gated,
            crossing=crossing,
        )
    experts = _first(config, "num_local_experts", "num_experts") or 1
    inner = _first(config, "moe_intermediate_size", "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
    return Shape(
        layers=layers,
        hidden=hidden,
        intermediate=experts * (inner or 4 * hidden),
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        head=config.get("head_dim") or hidden // heads,
        vocabulary=config["vocab_size"],
        tied=config.get("tie_word_embeddings", not gated and config.get("model_type") != "gpt_neox"),
        gated=gated,
        attention_bias=bool(config.get("attention_bias") or config.get("model_type") == "qwen2"),
    )


def shape_of(model: Model, base: Path | None = None) -> Shape:
    """The shape of a study's model.

    Args:
        base: folder of the model in the results, which knows best if it is there.

    Raises:
        ConfigurationError: if only loading the model could tell.
    """
    if base is not None and (base / "config.json").is_file():
        return shape_of_config(json.loads((base / "config.json").read_text(encoding="utf-8")))
    if model.source == "scratch":
        a = model.architecture
        if a.family == "t5":
            size = (a.hidden, a.intermediate, a.heads, a.heads, a.hidden // a.heads, a.vocabulary)
            return Shape(2 * a.layers, *size, tied=True, gated=a.activation != "relu", crossing=a.layers)
        gated = a.family == "llama"
        return Shape(
            a.layers, a.hidden, a.intermediate, a.heads, a.heads, a.hidden // a.heads, a.vocabulary, False, gated
        )
    if model.source == "local" and (user_path(model.path) / "config.json").is_file():
        return shape_of_config(read_config(user_path(model.path)))
    name = model.name if model.source == "hub" else model.path
    for known, shape in KNOWN.items():
        if name == known or (model.source == "gguf" and known.lower() in name.lower()):
            return shape
    raise ConfigurationError(
        f"The size of {name!r} is not known before it is fetched. Run the step setup first ({until('setup')}), "
        "and ask again."
    )
