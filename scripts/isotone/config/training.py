"""Settings of training: what changes the result, and apart from it how a run is operated."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.config.constraint import Constraint
from isotone.config.health import Criterion
from isotone.errors import ConfigurationError
from isotone.schema import section, setting

# Settings of `Training` that change how a step is computed, and so its last digits, but not what is computed:
# a run goes on under others (`bitwise: false` from there).
HOW = ("micro_batch_size", "micro_batch", "gradient_checkpointing", "compile")
VERSION = 1  # raise it when the training program computes something else from the same settings


@dataclass(frozen=True)
class Distillation:
    """Learning from the unconstrained teacher beside the text."""

    alpha: float = setting(0.0, "weight of KL(teacher || student); 0: no teacher", minimum=0, maximum=1)
    temperature: float = setting(1.0, "temperature of both distributions", exclusiveMinimum=0)


@dataclass(frozen=True)
class Faults:
    """What training does about numerical trouble."""

    spike_factor: float = setting(
        10.0,
        "a step whose loss or gradient norm exceeds this multiple of the running median is skipped; 0: never",
        minimum=0,
    )
    skips: int = setting(3, "skipped steps in a row before rolling back", minimum=1)
    roll_backs: int = setting(3, "roll-backs before the run ends with exit 70", minimum=0)
    roll_back_every: int = setting(200, "steps between the checkpoints that a roll-back may return to", minimum=1)


@dataclass(frozen=True)
class Training:
    """Everything that changes the trained weights."""

    epochs: float = setting(1.0, "passes over the training blocks", exclusiveMinimum=0)
    max_steps: int = setting(0, "upper bound on optimizer steps; 0: none", minimum=0)
    global_batch: int = setting(32, "sequences per optimizer step, on any number of processes", minimum=1)
    micro_batch_size: int = setting(8, "sequences per forward pass", minimum=1)
    micro_batch: str = setting(
        "fixed",
        "auto: instead of `micro_batch_size`, the largest power of two that fits into memory; recorded, then kept",
        enum=["fixed", "auto"],
    )
    length: int = setting(256, "tokens per training block", minimum=8)
    threads: int = setting(1, "CPU threads of torch; the bits of a CPU run depend on it", minimum=1)
    learning_rate: float = setting(1e-3, "peak learning rate", exclusiveMinimum=0)
    schedule: str = setting("linear", "decay after warm-up", enum=["linear", "cosine", "constant"])
    warm_up: float = setting(0.1, "share of the steps with rising learning rate", minimum=0, maximum=1)
    hold: float = setting(
        0.0, "share of the steps at the peak, between warm-up and decay", minimum=0, maximum=1, quiet=True
    )
    weight_decay: float = setting(0.01, "decoupled weight decay on matrices", minimum=0)
    beta1: float = setting(0.9, "AdamW", minimum=0, exclusiveMaximum=1)
    beta2: float = setting(0.999, "AdamW", minimum=0, exclusiveMaximum=1)
    epsilon: float = setting(1e-8, "AdamW", exclusiveMinimum=0)
    max_grad_norm: float = setting(1.0, "largest gradient norm, per parameter group; 0: no clipping", minimum=0)
    precision: str = setting(
        "fp32",
        "arithmetic of the forward and backward pass; master weights are always fp32",
        enum=["fp32", "bf16", "fp16", "auto"],
    )
    pure_bf16: bool = setting(
        False, "parameters themselves in bf16, as the published study did; only to reproduce its mistake"
    )
    reduction: str = setting(
        "exact", "exact: the same bits on 1, 2, 4 ... processes; fast: plain all-reduce", enum=["exact", "fast"]
    )
    compression: str = setting(
        "none", "type in which gradients travel between processes (reduction fast)", enum=["none", "bf16"]
    )
    deterministic: bool = setting(True, "refuse kernels whose result depends on scheduling")
    gradient_checkpointing: bool = setting(False, "recompute activations in the backward pass")
    compile: bool = setting(False, "torch.compile of each layer (not on CPU)")
    validation_blocks: int = setting(64, "validation blocks scored at each epoch end", minimum=1)
    milestones: list[float] = setting(
        [],
        "shares of the run at which weights are kept for the control curve",
        items={"exclusiveMinimum": 0, "maximum": 1},
        uniqueItems=True,
    )
    distillation: Distillation = section(Distillation, "learning from the unconstrained teacher")
    faults: Faults = section(Faults, "what training does about numerical trouble")

    def __post_init__(self) -> None:
        if self.global_batch % self.micro_batch_size:
            raise ConfigurationError(
                f"training.global_batch is {self.global_batch}, which training.micro_batch_size = {self.micro_batch_size} does not divide. "
                "Choose a micro-batch that divides the global batch."
            )
        if self.warm_up + self.hold > 1:
            raise ConfigurationError(
                f"training.warm_up and training.hold add up to {self.warm_up + self.hold:g} of the steps. Lower them to 1 or less."
            )
        if self.compression != "none" and self.reduction != "fast":
            raise ConfigurationError(
                f"training.compression is {self.compression}, which training.reduction = exact does not know. "
                "Choose reduction: fast, or compression: none."
            )
        leaves = self.global_batch // self.micro_batch_size
        if self.reduction == "exact" and leaves & (leaves - 1):
            raise ConfigurationError(
                f"training.reduction is exact, which needs a power-of-two number of micro-batches; global_batch / micro_batch_size = {leaves}. "
                "Change micro_batch_size, or choose reduction: fast."
            )

    def processes_on(self, gpus: int, nodes: int = 1) -> int:
        """How many processes a job starts: one for each GPU, as far as the micro-batches can be dealt out.

        Args:
            gpus: of each node; 0: one process a node, on the CPU.
        """
        wanted = min(max(gpus, 1) * nodes, max(nodes, self.global_batch // self.micro_batch_size))
        if self.reduction == "exact":
            wanted = 1 << (wanted.bit_length() - 1)
        return max(nodes, wanted - wanted % nodes)


@dataclass(frozen=True)
class TrainJob:
    """The settings of one training run: `scripts/train.py --settings`."""

    seed: int = setting(0, "order of the samples and dropout", minimum=0)
    version: int = setting(VERSION, "version of the training program")
    training: Training = section(Training, "the training settings of this arm")
    constraint: Constraint = section(Constraint, "the constraint of this arm")


@dataclass(frozen=True)
class Operation:
    """How runs are operated. Nothing here changes a result, so nothing here reruns one."""

    keep: int = setting(3, "timed checkpoints that stay", minimum=1)
    save_every_steps: int = setting(0, "steps between checkpoints; 0: by time only", minimum=0)
    save_every_minutes: float = setting(5.0, "minutes between checkpoints; 0: by steps only", minimum=0)
    background_save: bool = setting(True, "write checkpoints from a background thread")
    prefetch: int = setting(2, "batches read ahead", minimum=0)
    keep_state: bool = setting(False, "keep checkpoints after a run is done")
    keep_starts: bool = setting(
        True, "keep the untrained model of each arm once all its runs are done; it is made again when it is needed"
    )
    tensorboard: bool = setting(True, "write TensorBoard events")
    watchdog: float = setting(10.0, "medians of a step's time after which a hang is declared; 0: never", minimum=0)
    watchdog_floor: float = setting(
        120.0, "seconds without a step that are never called a hang (the first step gets ten times as many)", minimum=0
    )
    grace: float = setting(30.0, "seconds between a signal and the kill that follows it", minimum=0)
    attack_jobs: str = setting(
        "run",
        "run: a job for each attack on each run, and for scoring it; seed: one for all runs of a seed, where loading the libraries takes longer than attacking a small model",
        enum=["run", "seed"],
    )
    lock_wait: float = setting(600.0, "seconds that a second start waits for the first", minimum=0)
    lease: float = setting(
        30.0, "seconds without a sign of life after which another trainer may take over", exclusiveMinimum=0
    )
    target_memory: float = setting(
        0.8, "share of the memory that micro_batch: auto may fill", exclusiveMinimum=0, maximum=1
    )
    bucket_mib: int = setting(25, "MiB of gradients per message between processes (reduction fast)", minimum=1)
    collective_minutes: float = setting(
        30.0, "minutes that a process waits for the others before the run counts as failed", exclusiveMinimum=0
    )
    network_interface: str = setting(
        "",
        "network interface that joins the nodes (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME), such as ib0; empty: chosen",
    )
    p2p_level: str = setting(
        "",
        "how far apart two GPUs may be and still copy directly (NCCL_P2P_LEVEL); LOC where a PCIe switch or a virtual machine forbids it; empty: chosen",
        enum=["", "LOC", "NVL", "PIX", "PXB", "PHB", "SYS"],
    )
    sharding: str = setting(
        "auto",
        "full: each process holds a part of the model, its latents and moments; none: all hold all; auto: full on GPUs "
        "where the whole does not fit into one. With training.reduction exact the bits are the same",
        enum=["auto", "none", "full"],
    )
    gpu_monitor: bool = setting(True, "write gpu.jsonl once a second where there is an NVIDIA GPU")
    notify: str = setting(
        "",
        "your own command, run when the workflow ends; it sees ISOTONE_STATUS (success or failure), ISOTONE_STUDY, ISOTONE_FOLDER and ISOTONE_REPORT",
    )
    criteria: list[Criterion] = setting(
        [], "what a healthy run looks like; a run that breaks one is flagged or stopped"
    )
