"""The end of a run: the best model, its certificate, the marker."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isotone.config.training import TrainJob
from isotone.devices import kernels_used
from isotone.errors import Diverged, InputOutputError
from isotone.models import load_model, load_tokenizer
from isotone.records import Json, digest_of, file_digest, whole_file, write_json, write_marker
from isotone.schema import as_mapping
from isotone.training.checkpointing.delivery import kept, seal
from isotone.training.inputs import Run
from isotone.training.loop import Loop
from isotone.training.telemetry.criteria import read_flags

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def weights_digest(folder: Path) -> str:
    """SHA-256 of a model folder's weights (of the file, if there is only one).

    Raises:
        InputOutputError: if there are none.
    """
    digests = [file_digest(path) for path in sorted(Path(folder).glob("*.safetensors"))]
    if not digests:
        raise InputOutputError(f"{folder} holds no weights: it is missing or not whole.")
    return digests[0] if len(digests) == 1 else digest_of(digests)


def best_weights(loop: Loop) -> bool:
    """Put the weights of the best validation into the model.

    Returns:
        False if their checkpoint turned out damaged; the loop then stands at an earlier
        step and must run again.

    Raises:
        Diverged: if no validation gave a number.
    """
    best, saver = loop.state.best, loop.checkpointer.saver
    if best is None:
        raise Diverged(
            "No validation of this run gave a finite loss. Lower training.learning_rate or look at the start weights."
        )
    damaged = False
    with loop.observers.working("reading the best checkpoint"):
        if best["step"] != loop.state.step:
            try:
                loop.stepper.take(saver, best["step"])
            except InputOutputError:
                damaged = True
        if loop.world.share(damaged):
            loop.go_back(before=best["step"] + 1)
            return False
    return True


def export_milestones(loop: Loop, folder: Path) -> dict[str, int]:
    """Write ``milestones/<share>/`` model folders below ``folder``; returns share to step."""
    saver, stepper = loop.checkpointer.saver, loop.stepper
    for share, step in loop.schedule.milestones.items():
        stepper.take(saver, step)
        stepper.export(saver, loop.state.step + 1, None, folder / "milestones" / f"{share:g}")
    return {f"{share:g}": step for share, step in loop.schedule.milestones.items()}


class WeightsBefore(Mapping[str, Tensor]):
    """The constrained weights as training found them, read again from the start's folder.

    Training changes W before its first step, by the cast to bf16 and by W = f(V). That is
    rounding and no movement, so it is repeated here, weight by weight and on the device
    that trained: at most one of them is on it at a time.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        """Read the start model into main memory."""
        from isotone.constraints import weight_maps

        self.model = load_model(run.start)
        self.maps, self.device = weight_maps(self.model, run.job.constraint), device
        self.dtype = torch.bfloat16 if run.job.training.pure_bf16 else torch.float32

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        """W = f(f^-1(W)) of one weight."""
        weight = self.model.get_parameter(name).to(self.device, self.dtype)
        return self.maps[name].forward(self.maps[name].inverse(weight)).to(self.dtype)

    def __iter__(self) -> Iterator[str]:
        """Names of the constrained weights."""
        return iter(self.maps)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.maps)


def certificate_of(model: PreTrainedModel, job: TrainJob, train: Path, before: Mapping[str, Tensor]) -> Json:
    """The certificate of the exported model, read back: what later stages load is what is certified."""
    from isotone.constraints import calibration_ids, certify

    ids_BT = calibration_ids(train, job.constraint.calibration.tokens, job.training.length).to(model.device)
    return certify(model.eval(), job.constraint, ids_BT, before=before, stage="exported")


def result_of(loop: Loop, job: TrainJob, certificate: Mapping[str, Any], weights: str, milestones: Json) -> Json:
    """What stands in the marker and repeats bit for bit."""
    state = loop.state
    kernels = kernels_used(loop.world.device)
    return {
        "steps": state.step,
        "updates": state.updates,
        "epochs": job.training.epochs,
        "tokens": state.tokens,
        "blocks": loop.schedule.blocks,
        "start_loss": state.start_loss,
        "final_loss": (state.validated or {}).get("loss"),
        "best": state.best,
        "weights_sha256": weights,
        "kernels": kernels,
        "bitwise": kernels == "deterministic"
        and state.halvings == 0
        and not state.changes
        and job.training.micro_batch != "auto",
        **({"changes": state.changes} if state.changes else {}),
        "micro_batch_size": state.micro_batch_size,
        "precision": loop.stepper.engine.precision,
        "passed_over": loop.ledger.entries,
        "certificate": certificate.get("verdict"),
        "moved_share": certificate.get("moved_share"),
        "milestones": milestones,
    }


def cost_of(loop: Loop, folder: Path) -> Json:
    """What stands in the marker and does not repeat."""
    state = loop.state
    return {
        "seconds": round(state.seconds, 3),
        "useful_seconds": round(state.useful, 3),
        "stall_seconds": round(state.stall, 4),
        "processes": loop.world.size,
        "device": loop.world.device.type,
        "host": socket.gethostname(),
        "flags": read_flags(folder),
    }


def finish(loop: Loop, run: Run) -> None:
    """Make the results in the state folder, where nobody else removes them.

    The first process does, with the others' part of a sharded model.

    The model that was trained is gone afterwards: what is certified is the exported one,
    and a device need not hold both, nor what the optimizer kept.

    Raises:
        OSError: if something cannot be written; the checkpoints stay, so running again repeats only this.
        LostLease: if another start took over.
    """
    saver = loop.checkpointer.saver
    if saver is None:
        return
    made, job, identity = kept(run.folder), run.job, as_mapping(run.identity)
    tokenizer = load_tokenizer(run.start) if (run.start / "tokenizer.json").exists() else None
    with loop.observers.working("exporting"):
        loop.stepper.export(saver, loop.state.step + 1, tokenizer, made.model)
        milestones = export_milestones(loop, made.model)
        saver.join()
    if not loop.world.leads:
        return
    with loop.observers.working("certifying"):
        saver.release()
        loop.stepper.release()
        exported = load_model(made.model, device=loop.world.device)
        certificate = certificate_of(exported, job, run.train, WeightsBefore(run, loop.world.device))
        write_json(made.certificate, certificate)
    with loop.observers.working("hashing"):
        with whole_file(made.history) as file:
            file.write((run.folder / "history.csv").read_text())
        weights = weights_digest(made.model)
        write_marker(
            made.marker,
            "train",
            settings=as_mapping(job),
            inputs={key: value for key, value in identity.items() if key != "settings"},
            outputs={"model": weights, "certificate": file_digest(made.certificate)},
            result=result_of(loop, job, certificate, weights, milestones),
            cost=cost_of(loop, run.folder),
        )
        loop.checkpointer.check()
        seal(run.folder)
