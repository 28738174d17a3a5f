"""One start of the training program, from its inputs to its exit."""

from __future__ import annotations

import contextlib
import platform
import traceback
from pathlib import Path

import torch

from isotone import environment
from isotone.devices import choose_kernels
from isotone.errors import InputOutputError, IsotoneError
from isotone.provenance import code_digest
from isotone.training.build import build
from isotone.training.checkpointing.adoption import adopt, sign
from isotone.training.checkpointing.delivery import clean, deliver, finished_before
from isotone.training.checkpointing.lease import Lease
from isotone.training.finish import best_weights, finish
from isotone.training.inputs import Run
from isotone.training.loop import Loop, Stopped
from isotone.training.sharding.decide import is_sharded
from isotone.training.sharding.together import company
from isotone.training.supervision.liveness import declare_start
from isotone.training.supervision.outcome import refuse, write_outcome
from isotone.training.telemetry.events import Events
from isotone.training.world import World, join


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
    choose_kernels(training.deterministic)
    world = join(run.operation)
    world.insist_equal(
        {
            "Python": platform.python_version(),
            "torch": torch.__version__,
            "Isotone": code_digest("train"),
            "settings and input files": run.identity.digest,
        }
    )
    run.folder.mkdir(parents=True, exist_ok=True)
    events = Events(run.folder, world.rank)
    lease, trouble = None, None
    if world.leads:
        lease = Lease(run.folder, seconds=run.operation.lease, wait=run.operation.lock_wait)
        try:
            lease.acquire(lambda text: events("waiting", message=text))
            declare_start(run.folder, run.name, lease=run.operation.lease, log=run.log)
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
                adopt(run, lease, events)
                sign(run)
            sharded = is_sharded(run.job, run.operation, world, run.start)
            with company(run, world, lease, lambda: loop) if sharded else contextlib.nullcontext():
                loop = build(run, world, events, lease, sharded=sharded)
                loop.run()
                while not best_weights(loop):
                    loop.run()
                finish(loop, run)
                loop.close()
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
            step = loop.state.step if loop else 0
            write_outcome(run.folder, code, message, step=step, steps=loop.schedule.steps if loop else 0)
            events("exit", code=code, message=message, step=step)
