"""Arithmetic before the work: parameters, memory, FLOPs of a model that nobody has loaded yet.

Formulas, not measurements: right to some ten percent, which is what one needs to
choose a device or to see that a week would not suffice. No torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotone.config.data import Model, user_path
from isotone.config.training import Training
from isotone.environment import total_memory
from isotone.errors import ConfigurationError
from isotone.models.families import family_of_config
from isotone.models.files import LAYER_KEYS, read_config

GIB = 2**30
HEAD_KEYS = ("num_attention_heads", "n_head", "n_heads", "num_heads")


@dataclass(frozen=True)
class Shape:
    """What the size of a decoder follows from."""

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
        f"The size of {name!r} is not known before it is fetched. Run the step setup first (snakemake --until setup), "
        "and ask again."
    )


@dataclass(frozen=True)
class Memory:
    """Bytes of one training process, by what they hold."""

    weights: int
    gradients: int
    moments: int
    latents: int
    activations: int

    @property
    def state(self) -> int:
        """What is there whatever the batch is."""
        return self.weights + self.gradients + self.moments + self.latents

    @property
    def total(self) -> int:
        """All of it, with a tenth for buffers and fragments."""
        return int(1.1 * (self.state + self.activations))


def training_memory(shape: Shape, training: Training, *, constrained: bool = True) -> Memory:
    """Memory of training: fp32 weights, gradients, two moments, V of constrained weights, activations of one leaf.

    Activations follow Korthikanti et al. 2022 (arXiv:2205.05198), section 4, without the attention
    matrix (SDPA never holds it): about 34 bytes a token, layer and feature in 16 bits.
    """
    tokens = training.micro_batch_size * training.length
    width = 2 if training.precision in ("bf16", "fp16", "auto") else 4
    wide = shape.intermediate * (3 if shape.gated else 2) / shape.hidden
    layer = tokens * shape.hidden * width * (9.0 + wide)
    kept = (
        tokens * shape.hidden * width * shape.layers + layer
        if training.gradient_checkpointing
        else shape.layers * layer
    )
    copies = shape.parameters * width if width == 2 else 0  # autocast's 16-bit weights
    parameters = shape.parameters
    return Memory(
        weights=4 * parameters,
        gradients=4 * parameters,
        moments=8 * parameters,
        latents=4 * shape.feed_forward if constrained else 0,
        activations=int(kept) + copies + 4 * 1024 * shape.vocabulary * 2,
    )


def check_fits(shape: Shape, training: Training, device_bytes: int, device: str) -> Memory:
    """Refuse a model whose training cannot fit, with the arithmetic.

    Raises:
        ConfigurationError: if weights, gradients and moments alone exceed the device.
    """
    memory = training_memory(shape, training)
    if memory.state <= device_bytes:
        return memory
    per = memory.state / shape.parameters
    raise ConfigurationError(
        f"model: {shape.parameters / 1e9:.2f} billion parameters x {per:.1f} bytes (weights 4, gradients 4, AdamW's moments 8, "
        f"V of constrained weights {memory.latents / shape.parameters:.1f}) = {memory.state / GIB:.0f} GiB of state, but "
        f"{device} has {device_bytes / GIB:.0f} GiB. Take a smaller model or a larger device; sharding over devices is planned, "
        "not there (this configuration is plan-only here)."
    )


def check_machine(shape: Shape, devices: Sequence[tuple[str, int]]) -> None:
    """Refuse a model that no device here, and none that the profile names, can train.

    The largest device counts: the profile's, if it says ISOTONE_DEVICE_GIB (``profiles/slurm/site.sh``),
    else the GPUs of this machine, else its memory, unless this is a Slurm job, which may run
    beside the nodes that will train.

    Args:
        devices: name and bytes of each GPU here.

    Raises:
        ConfigurationError: with the arithmetic.
    """
    stated = os.environ.get("ISOTONE_DEVICE_GIB", "")
    if stated:
        if not stated.replace(".", "", 1).isdigit():
            raise ConfigurationError(
                f"ISOTONE_DEVICE_GIB is {stated!r}. Say how many GiB a device of the profile has, such as 80."
            )
        check_fits(shape, Training(), int(float(stated) * GIB), "a device of the profile (ISOTONE_DEVICE_GIB)")
    elif devices:
        name, size = max(devices, key=lambda device: device[1])
        check_fits(shape, Training(), size, name)
    elif "SLURM_JOB_ID" not in os.environ:
        check_fits(shape, Training(), total_memory(), "this machine, which has no GPU,")


def checkpoints_at_most(keep: int, training: Training) -> int:
    """How many checkpoints of one run can lie on the disk at once.

    Those by time, the best, two epoch ends, two that a roll-back may return to, the milestones, and the
    one that is being written (see `isotone.training.checkpointing.store.retained`).
    """
    anchors = 2 if training.faults.roll_backs else 0
    return keep + 1 + 2 + anchors + len(training.milestones) + 1
