"""Putting a run together: model, data, step, checkpoints, and what watches it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from isotone import environment
from isotone.constraints import guard_precision, weight_maps
from isotone.errors import UNFINISHED
from isotone.models import load_model
from isotone.schema import as_mapping
from isotone.tasks import Rows, rows_of
from isotone.training import micro_batch
from isotone.training.checkpointing.adoption import admit
from isotone.training.checkpointing.checkpointer import Checkpointer
from isotone.training.checkpointing.lease import Lease
from isotone.training.engine import Engine
from isotone.training.faults import Ledger
from isotone.training.gather import Gatherer
from isotone.training.inputs import Run
from isotone.training.loop import Loop
from isotone.training.observer import Observer, Observers
from isotone.training.optimizer import Optimizer
from isotone.training.schedule import Schedule
from isotone.training.sharding.together import shrink
from isotone.training.state import TrainerState
from isotone.training.stepper import Stepper
from isotone.training.supervision.outcome import write_outcome
from isotone.training.supervision.stop import Stop
from isotone.training.supervision.watchdog import Watchdog
from isotone.training.telemetry.console import Console
from isotone.training.telemetry.criteria import UNWATCHED, Judge
from isotone.training.telemetry.events import Events
from isotone.training.telemetry.gpu import Monitor, own_devices, recent_use
from isotone.training.telemetry.heartbeat import Heartbeat
from isotone.training.telemetry.history import History
from isotone.training.telemetry.machine import Machine
from isotone.training.telemetry.tfevents import EventWriter
from isotone.training.validation import Validator
from isotone.training.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build(run: Run, world: World, events: Events, lease: Lease | None, *, sharded: bool) -> Loop:
    """Put the parts together and stand where the newest checkpoint stands.

    Args:
        lease: of the first process; None in the others.
        sharded: each process holds a part of the model.

    Raises:
        ConfigurationError: settings, model and data do not fit one another.
    """
    began = time.monotonic()
    operation, training = run.operation, run.job.training
    train, validation = (rows_of(folder, training.length) for folder in (run.train, run.validation))
    schedule = Schedule(training, len(train))
    stop = Stop(run.folder, run.study_folder, grace=operation.grace, event=events)
    stop.install()
    teacher = load_model(run.teacher, device=world.device) if run.teacher and training.distillation.alpha > 0 else None
    ledger = Ledger(run.folder / "ledger.json")
    stepper: Stepper
    checkpointer: Checkpointer
    if sharded:
        from isotone.training.sharding.build import build_sharded

        stepper, checkpointer, history = build_sharded(run, world, events, lease, train, schedule, ledger, teacher)
    else:
        stepper = _whole(run, world, events, train, schedule, teacher)
        checkpointer = Checkpointer(operation, schedule, ledger)
        history = History(run.folder / "history.csv", stepper.optimizer.used_groups()) if world.leads else None
        if lease and history:
            checkpointer.hold(lease, stepper.optimizer.state(), events=events, before=history.sync)
    observers = Observers(*_observers(run, world, events, history, checkpointer, schedule.steps))
    fresh = TrainerState(
        micro_batch_size=training.micro_batch_size,
        identity=as_mapping(run.identity),
        versions=environment.versions(),
    )
    loop = Loop(
        training,
        fresh,
        stepper=stepper,
        validator=Validator(
            validation, training.validation_blocks, world, stepper.engine, everyone=stepper.parts_everywhere
        ),
        checkpointer=checkpointer,
        stop=stop,
        observers=observers,
        start_weights=lambda: stepper.start_weights(run.start),
        max_epochs=run.max_epochs,
    )
    with observers.working("reading the newest checkpoint"):
        found = checkpointer.newest()
        resize = admit(run, found.progress) if found else True
        if world.share(resize):
            size = micro_batch.choose(training, operation, world, stepper.engine, train, stepper.optimizer.flat, events)
            fresh.micro_batch_size = size
            if found:
                found.progress["micro_batch_size"] = size
        loop.resume(found)
        if sharded:
            shrink(loop, run.folder)
    events(
        "resume" if found else "start",
        step=loop.state.step,
        changes=[change for change in loop.state.changes if change["step"] == loop.state.step],
        steps=schedule.steps,
        processes=world.size,
        device=str(world.device),
        seconds=round(time.monotonic() - began, 4),
    )
    return loop


def _whole(
    run: Run, world: World, events: Events, train: Rows, schedule: Schedule, teacher: PreTrainedModel | None
) -> Stepper:
    """Steps of a model that every process holds whole."""
    job, training = run.job, run.job.training
    model = load_model(run.start, device=world.device)
    guard_precision(model, job.constraint)
    maps = weight_maps(model, job.constraint)
    if training.pure_bf16:
        model.bfloat16()
    optimizer = Optimizer(model, maps, training, decay_weight=job.constraint.weight_decay_on == "weight")
    engine = Engine(model, training, world.device, teacher)
    gather = Gatherer(training, run.operation, job.seed, world, engine, train, events)
    return Stepper(world, engine, optimizer, gather, schedule, events)


def _observers(
    run: Run, world: World, events: Events, history: History | None, checkpointer: Checkpointer, steps: int
) -> list[Observer]:
    """What watches a run, in the order in which it is told."""
    folder, operation = run.folder, run.operation
    heartbeat = Heartbeat(folder, name=run.name, rank=world.rank, steps=steps)
    watchdog = Watchdog(
        folder / "stacks.txt",
        medians=operation.watchdog,
        floor=operation.watchdog_floor,
        hung=lambda silent: _hung(run, events, silent, checkpointer.saved, steps),
    )
    if history is None:
        return [heartbeat, watchdog]

    def utilisation() -> float | None:
        return recent_use(folder / "gpu.jsonl", since=time.time() - UNWATCHED)

    watching: list[Observer] = [Machine(folder, events, state_bytes=lambda: checkpointer.size), history]
    if operation.tensorboard:
        watching.append(EventWriter(folder / "tensorboard"))
    watching += [Judge(operation.criteria, folder, events, utilisation), heartbeat, Console(steps), watchdog]
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's processes on this node, a GPU each
    if operation.gpu_monitor and world.device.type == "cuda":
        watching.append(Monitor(folder / "gpu.jsonl", events, devices=own_devices(local)))
    return watching


def _hung(run: Run, events: Events, silent: float, saved: int, steps: int) -> None:
    """The last words of a process whose watchdog found it hanging."""
    message = f"no step ended for {silent:.0f} s; the stacks are in {run.folder / 'stacks.txt'}; run again to continue"
    events("hang", message=message)
    if events.rank == 0:
        write_outcome(run.folder, UNFINISHED, message, step=saved, steps=steps)
