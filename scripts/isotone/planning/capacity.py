"""Arithmetic before the work: the memory of training a model that nobody has loaded yet.

Formulas, not measurements: right to some ten percent, which is what one needs to
choose a device or to see that a week would not suffice. No torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from isotone.config.training import Training
from isotone.environment import total_memory
from isotone.errors import ConfigurationError
from isotone.planning.shape import Shape

GIB = 2**30
HEAD_ROWS, HEAD_ELEMENTS = 4096, 1 << 28  # logits that exist at once, as isotone.devices has them (which imports torch)


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
