"""Training of the 1.4B shape at length 2048, rung by rung; and its memory against the estimate."""

from __future__ import annotations

import contextlib
import gc
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu.record import Plan, Record
from benchmarks.gpu.shapes import large, network, write_split
from benchmarks.gpu.timing import peak, seconds, settle

CONSTRAINT = {"scope": "mlp_both", "map": "softplus", "init": "abs"}
LIFT = {**CONSTRAINT, "init": "lift"}
GLOBAL_BATCH, LENGTH = 32, 2048


@dataclass
class Rung:
    """One way to train.

    Attributes:
        changes: training settings besides precision and reduction.
        small_chunks: the head works through 83 rows at a time, as before version 0.2.
        strict: kernels whose result depends on scheduling are refused.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    small_chunks: bool = False
    strict: bool = True
    constraint: dict[str, Any] = field(default_factory=lambda: CONSTRAINT)
    profiled: bool = False


KEPT = {"gradient_checkpointing": True, "micro_batch_size": 8}
RUNGS = [
    Rung("checkpointing, micro-batch 8, head by 83 rows", KEPT, small_chunks=True),
    Rung("the same, head as it is", KEPT),
    Rung("the same, layers compiled", {**KEPT, "compile": True}),
    Rung("compiled, no checkpointing, micro-batch 4", {"micro_batch_size": 4, "compile": True}),
    Rung("compiled, no checkpointing, micro-batch 8", {"micro_batch_size": 8, "compile": True}, profiled=True),
    Rung("the last, any kernel", {"micro_batch_size": 8, "compile": True}, strict=False),
    Rung("compiled, no checkpointing, micro-batch 8, lift", {"micro_batch_size": 8, "compile": True}, constraint=LIFT),
]


@contextlib.contextmanager
def arithmetic(rung: Rung) -> Iterator[None]:
    """Determinism as training sets it, and the head's chunks."""
    import isotone.models.loss as loss
    from isotone.devices import choose_kernels

    choose_kernels(rung.strict)
    with contextlib.ExitStack() as stack:
        if rung.small_chunks:
            few = lambda vocabulary, *_: max(1, min(1024, (1 << 22) // vocabulary))  # noqa: E731
            stack.enter_context(mock.patch.object(loss, "chunk_rows", few))
        yield


class Trainer:
    """A step as the training loop does it: all micro-batches, gradients, update."""

    def __init__(self, model: Any, rung: Rung, plan: Plan, split: Path) -> None:
        """Optimizer, engine and reader around a model."""
        from isotone.config.constraint import Constraint
        from isotone.config.training import Operation, Training
        from isotone.constraints import guard_precision, weight_maps
        from isotone.data.blocks import Blocks, TokenSplit
        from isotone.training.engine import Engine
        from isotone.training.gather import Gatherer
        from isotone.training.optimizer import Optimizer
        from isotone.training.state import TrainerState
        from isotone.training.telemetry.events import Events
        from isotone.training.world import World

        self.length = 32 if plan.tiny else LENGTH
        self.training = Training(global_batch=GLOBAL_BATCH, length=self.length, precision="bf16", **rung.changes)
        device = torch.device(plan.device, 0) if plan.device == "cuda" else torch.device("cpu")
        world, events = World(device), Events(Path(tempfile.mkdtemp()))
        constraint = Constraint(**rung.constraint)
        guard_precision(model, constraint)
        self.optimizer = Optimizer(model, weight_maps(model, constraint), self.training, decay_weight=False)
        self.engine = Engine(model, self.training, device, None)
        blocks = Blocks(TokenSplit.open(split), self.length)
        self.gather = Gatherer(self.training, Operation(), 0, world, self.engine, blocks, events)
        self.state = TrainerState(micro_batch_size=self.training.micro_batch_size)
        self.gather.deal(self.training.micro_batch_size)

    def step(self) -> float:
        """One optimizer step; the loss per token."""
        tokens, loss = self.gather(self.state, self.optimizer.flat)
        norms = self.optimizer.finish_gradients(1 / (tokens * self.engine.loss_scale))
        self.optimizer.update(1e-5, norms)
        self.state.step += 1
        return loss


def kernels(trainer: Trainer, plan: Plan) -> list[str]:
    """What a step's time on the device goes to, by kernel."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if plan.device == "cuda" else [])
    with profile(activities=activities) as seen:
        trainer.step()
        settle(plan.device)
    on_device = [
        event for event in seen.key_averages() if event.self_device_time_total > 0 and event.device_type.name == "CUDA"
    ]
    total = sum(event.self_device_time_total for event in on_device)
    ranked = sorted(on_device, key=lambda event: -event.self_device_time_total)[:40]
    lines = [f"{len(on_device)} kinds of kernel, {sum(e.count for e in on_device)} launches, {total / 1e3:.0f} ms"]
    return lines + [f"{e.self_device_time_total / 1e3:7.1f} ms {e.count:6} x {e.key[:110]}" for e in ranked]


def climb(rung: Rung, plan: Plan, record: Record, split: Path) -> float:
    """Measure one rung; the share of the card's peak that the model's arithmetic takes (0: peak unknown)."""
    from isotone.planning.capacity import training_memory
    from isotone.planning.shape import shape_of_config

    shape = large(plan)
    model = network(shape, 32 if plan.tiny else LENGTH, plan.device)
    for name, value in model.named_parameters():
        if "dense_h_to_4h.weight" in name or "dense_4h_to_h.weight" in name:
            value.data.abs_()
    if plan.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with arithmetic(rung):
        trainer = Trainer(model, rung, plan, split)
        first = seconds(trainer.step, plan.device)
        trainer.step()
        steps = 1 if plan.tiny else 2
        spent = seconds(lambda: [trainer.step() for _ in range(steps)], plan.device) / steps
        lines = kernels(trainer, plan) if plan.device == "cuda" and rung.profiled else []
        trainer.gather.close()
    tokens = GLOBAL_BATCH * trainer.length / spent
    arithmetic_shape = shape_of_config(model.config.to_dict())
    limit = peak(plan.device)[1]
    share = 3 * arithmetic_shape.forward_flops(trainer.length) * tokens / limit if limit else 0.0
    record.row(
        rung.name,
        f"{tokens:,.0f} tokens/s, {100 * share:.1f} % MFU, first step {first:.0f} s, micro-batch {trainer.state.micro_batch_size}",
    )
    if plan.device == "cuda":
        used = torch.cuda.max_memory_allocated()
        said = training_memory(arithmetic_shape, trainer.training).total
        record.row(
            f"peak memory: {rung.name}",
            f"{used / 2**30:.1f} GiB, estimate {said / 2**30:.1f} GiB ({used / said:.2f})",
            "at most the estimate",
            used <= said,
        )
    for line in lines:
        record.note(line)
    return share


def run(record: Record, plan: Plan) -> None:
    """All rungs, on one card, each with a model of its own."""
    split = write_split(plan.folder / "train", 160, 32 if plan.tiny else LENGTH, large(plan)["vocab_size"], 1)
    if plan.device == "cuda":
        record.row("card", peak(plan.device)[0])
    best = 0.0
    for rung in RUNGS[:2] if plan.tiny else RUNGS:
        try:
            share = climb(rung, plan, record, split)
            best = max(best, share) if rung.strict else best
        except Exception as error:
            traceback.print_exc()
            record.row(rung.name, f"{type(error).__name__}: {str(error)[:300]}", "runs", False)
        gc.collect()
        if plan.device == "cuda":
            torch.cuda.empty_cache()
    if not plan.tiny and peak(plan.device)[1]:
        record.row("best of those that are deterministic", f"{100 * best:.1f} % MFU", "45 %", best >= 0.45)
