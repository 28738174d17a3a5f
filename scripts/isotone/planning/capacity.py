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
from isotone.environment import total_memory, until
from isotone.errors import ConfigurationError
from isotone.models.families import family_of_config
from isotone.models.files import LAYER_KEYS, read_config

GIB = 2**30
HEAD_ROWS, HEAD_ELEMENTS = 4096, 1 << 28  # logits that exist at once, as isotone.devices has them (which imports torch)
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


@dataclass(frozen=True)
class Memory:
    """Bytes of one training process, by what they hold; each part can be counted in a running program.

    Attributes:
        weights, gradients, moments, latents: fp32; of a sharded run this process's rows.
        tree: partial sums of `reduction: exact` beside the gradients.
        incoming: summed rows of one turn, before they are added (sharded).
        blocks: whole weights and gradients of the layers at work (sharded).
        tables: the head's gradient; of a sharded run also its whole weights.
        embedding: its whole gradient on the way to all processes, when no layer is at work any more (sharded).
        latent_gradients: of V, while a step is taken.
        whole_gradient: the largest matrix's, whole, while its norm is taken (sharded).
        teacher: the model that is distilled from.
        activations: of one micro-batch, with autocast's copies of weights.
        logits: of one chunk of rows, and their gradients.
    """

    weights: int
    gradients: int
    moments: int
    latents: int
    tree: int
    incoming: int
    blocks: int
    tables: int
    embedding: int
    latent_gradients: int
    whole_gradient: int
    teacher: int
    activations: int
    logits: int

    @property
    def state(self) -> int:
        """What is there whatever the batch is."""
        return self.weights + self.gradients + self.moments + self.latents

    @property
    def backward(self) -> int:
        """What comes on top while gradients are made: at the head, in the layers, or at the embedding."""
        head, layers = self.logits + self.activations, self.incoming + self.blocks + self.activations
        return self.tables + max(head, layers, self.incoming + self.embedding)

    @property
    def step(self) -> int:
        """What comes on top while the optimizer works."""
        return self.latent_gradients + self.whole_gradient

    @property
    def total(self) -> int:
        """The larger of the two, with all that stays, and a tenth for fragments and libraries."""
        return int(1.1 * (self.state + self.tree + self.teacher + max(self.backward, self.step)))


def training_memory(
    shape: Shape, training: Training, *, constrained: bool = True, processes: int = 1, sharded: bool = False
) -> Memory:
    """Memory of training: the sum of what `Memory` lists.

    Activations follow Korthikanti et al. 2022 (arXiv:2205.05198), section 4, without the attention matrix (SDPA never
    holds it): 34 bytes a token, layer and feature in 16 bits, and what norms keep in fp32, as autograd was seen to save.

    Args:
        processes: that train together, a device each.
        sharded: each of them holds a part of the model (``operation.sharding``).
    """
    tokens = training.micro_batch_size * training.length
    narrow = training.precision in ("bf16", "fp16", "auto")
    width = 2 if narrow else 4
    wide = shape.intermediate * (4 if shape.gated else 2) / shape.hidden
    norms = (18.0 if shape.gated else 12.0) if narrow else 11.0  # autocast leaves norms and the residual in fp32
    layer = tokens * shape.hidden * width * (norms + wide)
    residual = tokens * shape.hidden * 4 * shape.layers
    kept = residual + layer if training.gradient_checkpointing else shape.layers * layer
    parameters, table = shape.parameters, shape.vocabulary * shape.hidden
    block = (parameters - table * (1 if shape.tied else 2)) / shape.layers
    recomputed = sharded and training.gradient_checkpointing
    copies = 2 * (block if recomputed else parameters) if narrow else 0  # autocast's 16-bit weights
    share = processes if sharded else 1
    constrained_bytes = 4 * shape.feed_forward if constrained else 0
    return Memory(
        weights=4 * parameters // share,
        gradients=4 * parameters // share,
        moments=8 * parameters // share,
        latents=constrained_bytes // share,
        tree=4 * parameters // share * tree_buffers(training, processes, sharded=sharded),
        incoming=4 * parameters // share if sharded else 0,
        # two layers' weights (one ahead), a layer's gradients, what is sent and what is received
        blocks=int(5 * 4 * block) if sharded else 0,
        tables=4 * table * (2 if sharded else 1),
        embedding=3 * 4 * table if sharded else 0,
        latent_gradients=constrained_bytes // share,
        whole_gradient=4 * (table + table // share) if sharded else 0,
        teacher=4 * parameters if training.distillation.alpha > 0 else 0,
        activations=int(kept + copies),
        logits=3 * 4 * min(HEAD_ROWS * shape.vocabulary, HEAD_ELEMENTS),
    )


def tree_buffers(training: Training, processes: int, *, sharded: bool) -> int:
    """Buffers as large as the gradients that `reduction: exact` needs beside them.

    A sharded run adds up in the gradients' own buffer too; an unsharded one uses it for each leaf, and
    needs a buffer for the exchange between processes.
    """
    if training.reduction != "exact":
        return 0
    own = -(-training.global_batch // training.micro_batch_size // processes)
    levels = max(own - 1, 0).bit_length()
    return max(levels - 1, 0) if sharded else max(levels, 1 if processes > 1 else 0)


def check_fits(shape: Shape, training: Training, device_bytes: int, device: str, devices: int = 1) -> Memory:
    """Refuse a model whose training cannot fit, with the arithmetic.

    Args:
        device_bytes: of one device.
        devices: that may share the model.

    Raises:
        ConfigurationError: if weights, gradients and moments alone exceed the devices.
    """
    memory = training_memory(shape, training, processes=devices, sharded=devices > 1)
    if memory.state <= device_bytes:
        return memory
    per = memory.state * devices / shape.parameters
    needed = next((count for count in (2, 4, 8, 16, 32, 64) if memory.state * devices / count <= 0.6 * device_bytes), 0)
    several = (
        f"Take about {needed} devices together (processes in the profile, operation.sharding: auto; the profile's "
        "ISOTONE_DEVICES says how many there are), a larger device, or a smaller model."
        if needed
        else "Take a smaller model."
    )
    raise ConfigurationError(
        f"model: {shape.parameters / 1e9:.2f} billion parameters x {per:.1f} bytes (weights 4, gradients 4, AdamW's moments 8, "
        f"V of constrained weights {memory.latents * devices / shape.parameters:.1f}) = {memory.state * devices / GIB:.0f} GiB of "
        f"state, but {device} has {device_bytes * devices / GIB:.0f} GiB. {several}"
    )


def check_machine(shape: Shape, devices: Sequence[tuple[str, int]]) -> None:
    """Refuse a model that no device here, and none that the profile names, can train.

    The profile's devices count, if it says ISOTONE_DEVICE_GIB and ISOTONE_DEVICES (``profiles/slurm/site.sh``),
    else the largest GPUs of this machine together, else its memory, unless this is a Slurm job, which may
    run beside the nodes that will train.

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
        count = _count(os.environ.get("ISOTONE_DEVICES", "1"))
        what = "a device of the profile" if count == 1 else f"{count} devices of the profile together"
        check_fits(shape, Training(), int(float(stated) * GIB), f"{what} (ISOTONE_DEVICE_GIB)", count)
    elif devices:
        name, size = max(devices, key=lambda device: device[1])
        alike = sum(other == (name, size) for other in devices)
        check_fits(shape, Training(), size, name if alike == 1 else f"all {alike} x {name} together", alike)
    elif "SLURM_JOB_ID" not in os.environ:
        check_fits(shape, Training(), total_memory(), "this machine, which has no GPU,")


def _count(stated: str) -> int:
    if not stated.isdigit() or int(stated) < 1:
        raise ConfigurationError(f"ISOTONE_DEVICES is {stated!r}. Say how many devices a training job has, such as 4.")
    return int(stated)


def checkpoints_at_most(keep: int, training: Training) -> int:
    """How many checkpoints of one run can lie on the disk at once.

    Those by time, the best, two epoch ends, two that a roll-back may return to, the milestones, and the
    one that is being written (see `isotone.training.checkpointing.store.retained`).
    """
    anchors = 2 if training.faults.roll_backs else 0
    return keep + 1 + 2 + anchors + len(training.milestones) + 1
