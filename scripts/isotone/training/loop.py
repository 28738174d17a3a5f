"""The loop: steps, epoch ends, saves, stops. Everything else is called from here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import torch

from isotone.config.training import Training
from isotone.errors import Unfinished
from isotone.records import Json
from isotone.training.checkpointing.checkpointer import Checkpointer
from isotone.training.checkpointing.store import Checkpoint
from isotone.training.faults import Guard
from isotone.training.observer import Observers
from isotone.training.state import TrainerState
from isotone.training.stepper import Measured, OutOfMemory, Stepper
from isotone.training.supervision.stop import Stop
from isotone.training.validation import Validator


class Stopped(Unfinished):
    """All processes stop in good order, together."""


class Loop:
    """Trains from where it stands until all is done, or until it is asked to stop."""

    def __init__(
        self,
        training: Training,
        fresh: TrainerState,
        *,
        stepper: Stepper,
        validator: Validator,
        checkpointer: Checkpointer,
        stop: Stop,
        observers: Observers,
        start_weights: Callable[[], Mapping[str, torch.Tensor]],
        max_epochs: int,
    ) -> None:
        """Nothing happens before `resume`.

        Args:
            fresh: where a run begins that has no checkpoint.
            start_weights: reads the start model again, for a roll-back to the beginning.
            max_epochs: epoch ends after which this run stops; 0: none.
        """
        self.training, self.fresh, self.max_epochs = training, fresh, max_epochs
        self.stepper, self.validator, self.checkpointer = stepper, validator, checkpointer
        self.stop, self.observers, self.start_weights = stop, observers, start_weights
        self.world, self.schedule = stepper.world, stepper.schedule
        self.events, self.ledger = stepper.events, checkpointer.ledger
        self.state = TrainerState.of(fresh.state())
        self.guard = Guard(training.faults)
        self.step_seconds = 0.0
        self._clock = time.monotonic()
        self._resumed = 0

    def resume(self, found: Checkpoint | None) -> None:
        """Take over a checkpoint, read by the first process, in every process.

        Without one the model is as it is: at its start.
        """
        if found is not None:
            known = TrainerState.of(found.progress)
            self.stepper.load(found.tensors, updates=known.updates, scales=known.scales)
        state = self.world.share(found.progress if found else None)
        self.state = TrainerState.of(state or self.fresh.state())
        if state is not None:
            self.stepper.copy_from_leader(self.state)
        self.guard = Guard(self.training.faults)
        if self.state.guard:
            self.guard.load(self.state.guard)
        self.stepper.engine.scale.load(self.state.loss_scale)
        self.stepper.gather.deal(self.state.micro_batch_size)
        self.checkpointer.begin(self.state)
        self.observers.on_resume(self.state)
        self._clock = time.monotonic()
        self._resumed = self.state.step

    def go_back(self, before: int | None = None) -> None:
        """Return to the newest whole checkpoint below ``before``, or to the start weights."""
        with self.observers.working("going back"):
            self.checkpointer.join()
            found = self.checkpointer.newest(before)
            if self.world.share(found is None):
                self.stepper.optimizer.restart(self.start_weights())
            self.resume(found)

    def run(self) -> None:
        """Train to the end.

        Raises:
            Stopped: run again.
            Diverged: roll-backs did not help.
        """
        epochs = 0
        while True:
            step = self.state.step
            if (step == 0 or self.schedule.is_epoch_end(step)) and not self._is_validated():
                self._validate()
                self._save()
                epochs += step > self._resumed
            if step >= self.schedule.steps:
                break
            if self.max_epochs and epochs >= self.max_epochs:
                self._end(f"epoch {self.schedule.epochs_done(step)} of {self.schedule.epochs} done")
            self._stop_if_asked()
            if self.ledger.void(step):
                self.guard.in_a_row = 0
                self.state.step += 1
            else:
                self._step()
            if self.state.step > step and self._save_is_due():
                self._save()
        with self.observers.working("saving"):
            self.checkpointer.join()

    def close(self) -> None:
        """Stop helpers; waits for a save in flight."""
        self.stepper.gather.close()
        with self.observers.working("saving"):
            self.checkpointer.join()
        self.observers.close()

    # Steps

    def _step(self) -> None:
        begun = time.monotonic()
        try:
            measured = self.stepper.measure(self.state)
            self.checkpointer.check()
            if reason := self.guard.verdict(measured.loss, measured.norms):
                self._skip(reason)
                return
            rate = self.stepper.update(self.state, measured)
        except OutOfMemory:
            self._shrink()
            return
        self.guard.accept(measured.loss, measured.norms)
        self.step_seconds = time.monotonic() - begun
        self.state.step += 1
        self.state.updates += 1
        self.state.tokens += int(measured.tokens)
        self.state.useful += self.step_seconds
        self.observers.on_step(self.step_seconds)
        row = self._row() | self._figures(measured, rate)
        if self.schedule.is_epoch_end(self.state.step):
            self.state.row = row  # told together with the validation loss
        else:
            self.observers.on_row(row, self.state)

    def _figures(self, measured: Measured, rate: float) -> Json:
        return {
            **{f"grad_norm_{group}": norm for group, norm in measured.norms.items()},
            "loss": measured.loss,
            "learning_rate": rate,
            "tokens_per_second": measured.tokens / self.step_seconds,
            "fetch_seconds": self.stepper.gather.fetch_seconds,
        }

    def _row(self) -> Json:
        cuda = self.world.device.type == "cuda"
        return {
            "step": self.state.step,
            "epoch": self.state.step * self.training.global_batch / self.schedule.blocks,
            "tokens": self.state.tokens,
            "memory_allocated": torch.cuda.max_memory_allocated() if cuda else 0,
            "memory_reserved": torch.cuda.max_memory_reserved() if cuda else 0,
            "seconds": self._seconds(),
            "stall_seconds": self.state.stall + self.checkpointer.stall,
        }

    def _seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self._clock

    def _skip(self, reason: str) -> None:
        """Leave a step out; after several in a row go back, and pass over what led here."""
        step, faults = self.state.step, self.training.faults
        self.events("skip", step=step, reason=reason)
        self.state.step = step + 1
        if not self.guard.skip():
            return
        first, every = step + 1 - self.guard.in_a_row, faults.roll_back_every
        anchor = first // every * every
        self.ledger.add(anchor, step + 1, reason, faults, write=self.world.leads)
        self.events("roll_back", step=step, to=anchor, number=len(self.ledger.entries), reason=reason)
        self.go_back()

    def _shrink(self) -> None:
        """Memory ran out while weights changed: back to the newest checkpoint, with a smaller micro-batch."""
        size, halvings = self.state.micro_batch_size, self.state.halvings
        self.go_back()
        self.state.micro_batch_size, self.state.halvings = size, halvings
        self.stepper.gather.halve(self.state)

    # Epoch ends

    def _is_validated(self) -> bool:
        return self.state.validated is not None and self.state.validated["step"] == self.state.step

    def _validate(self) -> None:
        """Score the validation blocks; a signal in between is obeyed at once, and this starts again."""

        def between() -> None:
            self._stop_if_asked()
            self.observers.on_beat()

        loss = self.validator(self.state.micro_batch_size, between=between)
        known = loss if math.isfinite(loss) else None
        step, best = self.state.step, self.state.best
        self.state.validated = {"step": step, "loss": known}
        if step == 0:
            self.state.start_loss = known
        elif known is not None and (best is None or known < best["loss"]):
            self.state.best = {"step": step, "loss": known}
        row = {**(self.state.row or self._row()), "validation_loss": loss}
        self.state.row = None
        self.observers.on_row(row, self.state)

    # Saving and stopping

    def _save_is_due(self) -> bool:
        """Whether the state is saved now, the same in every process: their clocks differ, so they vote."""
        due = self.checkpointer.due(self.state.step)
        return self.world.any(due)[0] if self.checkpointer.operation.save_every_minutes else due

    def _save(self) -> None:
        """Save, while the other processes wait: a slow disk is no hang."""
        with self.observers.working("saving"):
            self.state.seconds, self._clock = self._seconds(), time.monotonic()
            self.state.ledger = len(self.ledger.entries)
            self.state.guard = self.guard.state()
            self.state.loss_scale = self.stepper.engine.scale.state()
            self.state.scales = dict(self.stepper.optimizer.scales)
            self.observers.on_save(self.state)
            self.checkpointer.save(self.state, self.stepper.optimizer.state())
            self.world.share(None)

    def _stop_if_asked(self) -> None:
        asked = self.stop.look(self.checkpointer.expected_seconds, self.step_seconds)
        if self.world.any(asked)[0]:
            reason = self.stop.reason or "another process was asked to stop"
            self._end(f"stopped at step {self.state.step} of {self.schedule.steps} ({reason})")

    def _end(self, message: str) -> None:
        """Save if there is time, and stop."""
        self.checkpointer.hurry()
        left = self.stop.seconds_left()
        if self.world.share(self.checkpointer.expected_seconds < left):
            self._save()
        else:
            self.events("unsaved", step=self.state.step, left=left)
        with self.observers.working("saving"):
            self.checkpointer.join()
        raise Stopped(f"{message}; run again to continue")
