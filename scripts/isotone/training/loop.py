"""The loop: steps, epoch ends, saves, stops. Everything else is called from here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from isotone.config.training import Operation, Training
from isotone.data.blocks import Blocks
from isotone.errors import Unfinished
from isotone.records import Json
from isotone.training.checkpointing.lease import Lease
from isotone.training.checkpointing.saver import Saver
from isotone.training.checkpointing.store import Checkpoint
from isotone.training.engine import Engine
from isotone.training.faults import Guard, Ledger
from isotone.training.gather import Gatherer
from isotone.training.optimizer import Optimizer
from isotone.training.progress import Progress
from isotone.training.schedule import Schedule
from isotone.training.supervision.stop import Stop
from isotone.training.supervision.watchdog import Watchdog
from isotone.training.telemetry.gpu import Monitor
from isotone.training.telemetry.history import Events, Telemetry, say
from isotone.training.world import World


class Stopped(Unfinished):
    """All processes stop in good order, together."""


@dataclass
class Parts:
    """What the loop works with; `isotone.training.run` puts it together.

    ``saver`` and ``lease`` exist in the first process only. ``start_weights`` reads the
    start model again, for a roll-back to the beginning.
    """

    training: Training
    operation: Operation
    world: World
    engine: Engine
    optimizer: Optimizer
    schedule: Schedule
    gather: Gatherer
    validation: Blocks
    stop: Stop
    events: Events
    telemetry: Telemetry
    watchdog: Watchdog
    ledger: Ledger
    saver: Saver | None
    lease: Lease | None
    monitor: Monitor | None
    start_weights: Callable[[], Mapping[str, torch.Tensor]]


class Loop:
    """Trains from where it stands until all is done, or until it is asked to stop."""

    def __init__(self, parts: Parts, fresh: Progress, *, max_epochs: int) -> None:
        """Nothing happens before `resume`.

        Args:
            fresh: where a run begins that has no checkpoint.
            max_epochs: epoch ends after which this run stops; 0: none.
        """
        self.parts, self.fresh, self.max_epochs = parts, fresh, max_epochs
        self.progress = Progress.of(fresh.state())
        self.guard = Guard(parts.training.faults)
        self.step_seconds = 0.0
        self._clock = self._saved = time.monotonic()
        self._resumed = 0

    def resume(self, found: Checkpoint | None) -> None:
        """Take over a checkpoint, read by the first process, in every process.

        Without one the model is as it is: at its start.
        """
        parts = self.parts
        if found is not None:
            known = Progress.of(found.progress)
            parts.optimizer.load(found.tensors, updates=known.updates, scales=known.scales)
        state = parts.world.share(found.progress if found else None)
        self.progress = Progress.of(state or self.fresh.state())
        if state is not None and parts.world.size > 1:
            parts.world.copy_from_leader(
                [value for group in parts.optimizer.state().values() for value in group.values()]
            )
            parts.optimizer.refresh(updates=self.progress.updates, scales=self.progress.scales)
        self.guard = Guard(parts.training.faults)
        if self.progress.guard:
            self.guard.load(self.progress.guard)
        parts.engine.scale.load(self.progress.loss_scale)
        parts.telemetry.resume(self.progress.step, self.progress.history)
        parts.gather.deal(self.progress.micro_batch_size)
        self._clock = self._saved = time.monotonic()
        self._resumed = self.progress.step

    def go_back(self, before: int | None = None) -> None:
        """Return to the newest whole checkpoint below ``before``, or to the start weights."""
        saver = self.parts.saver
        found = saver.store.newest(self.fits, before) if saver else None
        if self.parts.world.share(found is None):
            self.parts.optimizer.restart(self.parts.start_weights())
        self.resume(found)

    def fits(self, progress: Json) -> bool:
        """Whether a checkpoint is part of the history that the ledger tells."""
        return self.parts.ledger.admits(progress["step"], progress["ledger"])

    def run(self) -> None:
        """Train to the end.

        Raises:
            Stopped: run again.
            Diverged: roll-backs did not help.
        """
        schedule, epochs = self.parts.schedule, 0
        while True:
            step = self.progress.step
            if (step == 0 or schedule.is_epoch_end(step)) and not self._is_validated():
                self._validate()
                self._save()
                epochs += step > self._resumed
            if step >= schedule.steps:
                break
            if self.max_epochs and epochs >= self.max_epochs:
                self._end(f"epoch {schedule.epochs_done(step)} of {schedule.epochs} done")
            self._stop_if_asked()
            if self.parts.ledger.void(step):
                self.guard.in_a_row = 0
                self.progress.step += 1
            else:
                self._step()
            if self.progress.step > step:
                self._save_if_due()
        if self.parts.saver:
            self.parts.saver.join()

    def close(self) -> None:
        """Stop helpers; waits for a save in flight."""
        self.parts.gather.close()
        if self.parts.saver:
            self.parts.saver.join()
        if self.parts.monitor:
            self.parts.monitor.close()
        self.parts.watchdog.close()
        self.parts.telemetry.close()

    def _step(self) -> None:
        parts, begun = self.parts, time.monotonic()
        while True:
            tokens, loss = parts.gather(self.progress, parts.optimizer.flat)
            norms = parts.optimizer.finish_gradients(1 / (tokens * parts.engine.loss_scale))
            overflow = math.isfinite(loss) and not all(map(math.isfinite, norms.values()))
            if not overflow or not parts.engine.scale.overflow():
                break
            parts.events("loss_scale", step=self.progress.step, value=parts.engine.scale.value)
        if parts.lease:
            parts.lease.check()
        if reason := self.guard.verdict(loss, norms):
            self._skip(reason)
            return
        rate = parts.schedule.learning_rate(self.progress.step)
        parts.optimizer.update(rate, norms)
        parts.engine.scale.succeed()
        self.guard.accept(loss, norms)
        self.step_seconds = time.monotonic() - begun
        self.progress.step += 1
        self.progress.updates += 1
        self.progress.tokens += int(tokens)
        self.progress.useful += self.step_seconds
        parts.watchdog.step(self.step_seconds)
        row = {
            **self._row(),
            **{f"grad_norm_{group}": norm for group, norm in norms.items()},
            "loss": loss,
            "learning_rate": rate,
            "tokens_per_second": tokens / self.step_seconds,
            "fetch_seconds": parts.gather.fetch_seconds,
        }
        if parts.schedule.is_epoch_end(self.progress.step):
            self.progress.row = row  # told together with the validation loss
        else:
            self._tell(row)

    def _row(self) -> Json:
        cuda = self.parts.world.device.type == "cuda"
        return {
            "step": self.progress.step,
            "epoch": self.progress.step * self.parts.training.global_batch / self.parts.schedule.blocks,
            "tokens": self.progress.tokens,
            "memory_allocated": torch.cuda.max_memory_allocated() if cuda else 0,
            "memory_reserved": torch.cuda.max_memory_reserved() if cuda else 0,
            "seconds": self._seconds(),
            "stall_seconds": self.progress.stall + (self.parts.saver.stall if self.parts.saver else 0.0),
        }

    def _tell(self, row: Json, *, force: bool = False) -> None:
        size = self.parts.saver.size if self.parts.saver else 0
        goodput = self.progress.useful / max(time.time() - self.progress.begun, 1e-9)
        self.parts.telemetry.step(row, goodput=goodput, state_bytes=size, event=self.parts.events, force=force)

    def _seconds(self) -> float:
        return self.progress.seconds + time.monotonic() - self._clock

    def _skip(self, reason: str) -> None:
        """Leave a step out; after several in a row go back, and pass over what led here."""
        parts, step = self.parts, self.progress.step
        parts.events("skip", step=step, reason=reason)
        self.progress.step = step + 1
        if not self.guard.skip():
            return
        first, every = step + 1 - self.guard.in_a_row, parts.training.faults.roll_back_every
        anchor = first // every * every
        if parts.saver:
            parts.saver.join()
        parts.ledger.add(anchor, step + 1, reason, parts.training.faults, write=parts.world.leads)
        parts.events("roll_back", step=step, to=anchor, number=len(parts.ledger.entries), reason=reason)
        self.go_back()

    # Epoch ends

    def _is_validated(self) -> bool:
        return self.progress.validated is not None and self.progress.validated["step"] == self.progress.step

    def _validate(self) -> None:
        """Score the first validation blocks; a signal in between is obeyed at once, and this starts again."""
        parts, size = self.parts, self.progress.micro_batch_size
        count = min(parts.training.validation_blocks, len(parts.validation))
        starts = range(0, count, size)
        rows = torch.zeros(len(starts), 2, dtype=torch.float64)
        share = [rank * len(starts) // parts.world.size for rank in (parts.world.rank, parts.world.rank + 1)]
        rounds = -(-len(starts) // parts.world.size)
        for turn in range(rounds):
            self._stop_if_asked()
            parts.watchdog.beat()
            number = share[0] + turn
            if number < share[1]:
                blocks = np.arange(starts[number], min(starts[number] + size, count))
                inputs, targets = (
                    torch.from_numpy(part).to(parts.world.device) for part in parts.validation.batch(blocks)
                )
                rows[number, 0] = parts.engine.score(inputs, targets).double().cpu()
                rows[number, 1] = (targets >= 0).sum().cpu()
        losses, counts = parts.world.table(rows).T.tolist()
        loss = sum(losses) / max(sum(counts), 1.0)
        known = loss if math.isfinite(loss) else None
        step, best = self.progress.step, self.progress.best
        self.progress.validated = {"step": step, "loss": known}
        if step == 0:
            self.progress.start_loss = known
        elif known is not None and (best is None or known < best["loss"]):
            self.progress.best = {"step": step, "loss": known}
        row = {**(self.progress.row or self._row()), "validation_loss": loss}
        self.progress.row = None
        self._tell(row, force=True)
        if parts.world.leads:
            say(f"step {step} of {parts.schedule.steps}: validation loss {loss:.4f} nats/token")

    # Saving and stopping

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self.parts.saver is None or self.parts.lease is None:
            return
        self.parts.lease.check()
        saver, history = self.parts.saver, self.parts.telemetry.history
        self.progress.seconds, self._clock = self._seconds(), time.monotonic()
        self.progress.stall, saver.stall = self.progress.stall + saver.stall, 0.0
        self.progress.history = history.position() if history else 0
        self.progress.ledger = len(self.parts.ledger.entries)
        self.progress.guard = self.guard.state()
        self.progress.loss_scale = self.parts.engine.scale.state()
        self.progress.scales = dict(self.parts.optimizer.scales)
        saver.save(self.progress.step, self.parts.optimizer.state(), self.progress.state())

    def _save_if_due(self) -> None:
        step, schedule, operation = self.progress.step, self.parts.schedule, self.parts.operation
        if schedule.is_epoch_end(step):
            return  # saved once it is validated
        minutes = operation.save_every_minutes
        if (
            schedule.is_anchor(step)
            or step in schedule.milestones.values()
            or (operation.save_every_steps and step % operation.save_every_steps == 0)
            or (minutes and time.monotonic() - self._saved > 60 * minutes)
        ):
            self._save()

    def _stop_if_asked(self) -> None:
        saver, stop = self.parts.saver, self.parts.stop
        asked = stop.look(saver.expected_seconds() if saver else 0.0, self.step_seconds)
        if self.parts.world.any(asked)[0]:
            reason = stop.reason or "another process was asked to stop"
            self._end(f"stopped at step {self.progress.step} of {self.parts.schedule.steps} ({reason})")

    def _end(self, message: str) -> None:
        """Save if there is time, and stop."""
        if saver := self.parts.saver:
            saver.hurry = True
            if saver.expected_seconds() < self.parts.stop.seconds_left():
                self._save()
            else:
                self.parts.events("unsaved", step=self.progress.step, left=self.parts.stop.seconds_left())
            saver.join()
        raise Stopped(f"{message}; run again to continue")
