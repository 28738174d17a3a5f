"""One start of the training program, from its inputs to its exit."""

from __future__ import annotations

import time
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from isotone import environment
from isotone.config.schema import as_mapping
from isotone.constraints import guard_precision, weight_maps
from isotone.data.blocks import Blocks, TokenSplit
from isotone.errors import UNFINISHED, ConfigurationError, InputOutputError, IsotoneError
from isotone.models import load_model
from isotone.records import Json
from isotone.training import micro_batch
from isotone.training.checkpointing.delivery import clean, deliver, finished_before
from isotone.training.checkpointing.lease import Lease
from isotone.training.checkpointing.saver import Saver
from isotone.training.checkpointing.store import Store, retained
from isotone.training.engine import Engine
from isotone.training.faults import Ledger
from isotone.training.finish import best_weights, finish
from isotone.training.gather import Gatherer
from isotone.training.inputs import Run
from isotone.training.loop import Loop, Parts, Stopped
from isotone.training.optimizer import Optimizer
from isotone.training.progress import Progress
from isotone.training.schedule import Schedule
from isotone.training.supervision.outcome import refuse, write_outcome
from isotone.training.supervision.stop import Stop
from isotone.training.supervision.watchdog import Watchdog
from isotone.training.telemetry.criteria import Judge
from isotone.training.telemetry.gpu import Monitor
from isotone.training.telemetry.history import Events, Telemetry
from isotone.training.world import World, join

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train(run: Run) -> None:
    """Train as far as this start goes.

    Raises:
        Unfinished: exit 75, run again.
        InputOutputError: exit 74.
        ConfigurationError: exit 78.
        Diverged: exit 70.
    """
    training = run.job.training
    environment.deterministic(run.job.seed, training.threads)
    torch.use_deterministic_algorithms(training.deterministic, warn_only=True)
    world = join()
    run.folder.mkdir(parents=True, exist_ok=True)
    events = Events(run.folder, world.rank)
    lease, trouble = None, None
    if world.leads:
        lease = Lease(run.folder, seconds=run.operation.lease, wait=run.operation.lock_wait)
        try:
            lease.acquire(lambda text: events("waiting", message=text))
        except (IsotoneError, OSError) as error:
            trouble = error if isinstance(error, IsotoneError) else _unusable(run.folder, error)
    trouble = world.share(trouble)
    try:
        try:
            if trouble is not None:
                raise trouble
            _hold(run, world, events, lease)
        finally:
            if lease:
                lease.release()
    except Stopped:
        world.share(None)  # torchrun and srun end all as soon as one ends: nobody does before the first has left word
        raise
    finally:
        world.leave()


def _unusable(folder: Path, error: OSError) -> InputOutputError:
    return InputOutputError(
        f"A file or folder cannot be used: {error}. Correct its permissions, or make room; checkpoints are in {folder}, "
        "and the variable ISOTONE_STATE moves them elsewhere."
    )


def _hold(run: Run, world: World, events: Events, lease: Lease | None) -> None:
    """Train while the lease is held, and leave word of how it ended."""
    loop: Loop | None = None
    code, message = 0, "finished"
    try:
        if world.share(lease is not None and finished_before(run.folder)):
            events("done_before")
        else:
            if lease:
                (run.folder / "outcome.json").unlink(missing_ok=True)
            loop, model, before = _prepare(run, world, events, lease)
            loop.run()
            while not best_weights(loop):
                loop.run()
            finish(loop, model, run, before)
        if lease:
            deliver(run.folder, run.outputs)
            if not run.operation.keep_state:
                clean(lease.checkpoints)
    except (IsotoneError, OSError) as error:
        if lease and lease.lost():  # also behind a path that is gone: the state folder is the successor's
            held, lease = lease, None
            held.check()
        if isinstance(error, OSError):
            code, message = 74, str(error)
            raise _unusable(run.folder, error) from error
        code, message = error.code, str(error)
        if lease:
            refuse(run.folder, error)
        raise
    except BaseException:
        code, message = 1, traceback.format_exc()
        raise
    finally:
        if loop:
            loop.close()
        if lease:
            step = loop.progress.step if loop else 0
            write_outcome(run.folder, code, message, step=step, steps=loop.parts.schedule.steps if loop else 0)
            events("exit", code=code, message=message, step=step)


def _check_identity(run: Run, progress: Json) -> None:
    """A checkpoint of another run is never resumed."""
    if differences := run.identity.differences(progress["identity"]):
        raise ConfigurationError(
            f"The checkpoint in {run.folder} was made by another run: it differs in {'; '.join(differences)}. "
            "Restore the settings and inputs it was made with, or move the folder away to begin again."
        )


def _prepare(
    run: Run, world: World, events: Events, lease: Lease | None
) -> tuple[Loop, PreTrainedModel, Mapping[str, torch.Tensor]]:
    """Put the parts together and stand where the newest checkpoint stands."""
    began = time.monotonic()
    job, operation, training = run.job, run.operation, run.job.training
    train, validation = (Blocks(TokenSplit.open(folder), training.length) for folder in (run.train, run.validation))
    schedule = Schedule(training, len(train))
    stop = Stop(run.folder, run.study_folder, grace=operation.grace, event=events)
    stop.install()
    model = load_model(run.start, device=world.device)
    guard_precision(model, job.constraint)
    maps = weight_maps(model, job.constraint)
    if training.pure_bf16:
        model.bfloat16()
    teacher = load_model(run.teacher, device=world.device) if run.teacher and training.distillation.alpha > 0 else None
    decay_weight = job.constraint.weight_decay_on == "weight"
    optimizer = Optimizer(model, maps, training, decay_weight=decay_weight)
    # behind the cast to bf16 and the first W = f(V): rounding is no movement
    before = {name: model.get_parameter(name).detach().clone() for name in maps}
    engine = Engine(model, training, world.device, teacher)
    ledger = Ledger(run.folder / "ledger.json")
    cuda = world.device.type == "cuda"
    groups = [group for group, names in optimizer.groups.items() if names]
    loop = Loop(
        Parts(
            training=training,
            operation=operation,
            world=world,
            engine=engine,
            optimizer=optimizer,
            schedule=schedule,
            gather=Gatherer(training, operation, job.seed, world, engine, train, events),
            validation=validation,
            stop=stop,
            events=events,
            telemetry=Telemetry(
                run.folder,
                name=run.name,
                rank=world.rank,
                groups=groups,
                steps=schedule.steps,
                tensorboard=operation.tensorboard,
            ),
            watchdog=Watchdog(
                run.folder / "stacks.txt",
                medians=operation.watchdog,
                floor=operation.watchdog_floor,
                hung=lambda silent: _hung(run, events, silent, schedule.steps),
            ),
            ledger=ledger,
            saver=None,
            lease=lease,
            monitor=Monitor(run.folder / "gpu.jsonl", events)
            if operation.gpu_monitor and cuda and world.leads
            else None,
            start_weights=lambda: dict(load_model(run.start, device=world.device).named_parameters()),
        ),
        Progress(
            micro_batch_size=training.micro_batch_size,
            identity=as_mapping(run.identity),
            versions=environment.versions(),
        ),
        max_epochs=run.max_epochs,
    )
    if world.leads:
        loop.parts.telemetry.judge = Judge(operation.criteria, run.folder, events)
    found = None
    if lease:
        loop.parts.saver = saver = _make_saver(loop, lease, events)
        found = saver.store.newest(loop.fits)
        if found:
            _check_identity(run, found.progress)
    if not world.share(found is not None):
        loop.fresh.micro_batch_size = micro_batch.choose(
            training, operation, world, engine, train, optimizer.flat, events
        )
    loop.resume(found)
    events(
        "resume" if found else "start",
        step=loop.progress.step,
        steps=schedule.steps,
        processes=world.size,
        device=str(world.device),
        seconds=round(time.monotonic() - began, 4),
    )
    return loop, model, before


def _make_saver(loop: Loop, lease: Lease, events: Events) -> Saver:
    """Checkpoints with this run's rules of what stays."""
    schedule, operation = loop.parts.schedule, loop.parts.operation

    def always() -> set[int]:
        best = loop.progress.best
        return {*schedule.milestones.values(), *([best["step"]] if best else [])}

    def stays(steps: Collection[int]) -> set[int]:
        return retained(
            steps,
            keep=operation.keep,
            is_epoch_end=schedule.is_epoch_end,
            is_anchor=schedule.is_anchor,
            always=always(),
        )

    history = loop.parts.telemetry.history
    saver = Saver(
        Store(lease.checkpoints, events),
        background=operation.background_save,
        label=f"{lease.generation:06d}",
        retained=stays,
        essential=always,
        before=history.sync if history else lambda: None,
    )
    saver.measure(loop.parts.optimizer.state())
    return saver


def _hung(run: Run, events: Events, silent: float, steps: int) -> None:
    """The last words of a process whose watchdog found it hanging."""
    message = f"no step ended for {silent:.0f} s; the stacks are in {run.folder / 'stacks.txt'}; run again to continue"
    events("hang", message=message)
    if events.rank == 0:
        write_outcome(run.folder, UNFINISHED, message, step=0, steps=steps)
