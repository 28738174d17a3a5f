"""The end of a run: the best model, its certificate, the marker."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from isotone.config.schema import as_mapping
from isotone.config.training import TrainJob
from isotone.errors import Diverged, InputOutputError
from isotone.models import load_model, load_tokenizer, save_model
from isotone.records import Json, digest_of, file_digest, whole_file, write_json, write_marker
from isotone.training.checkpointing.delivery import kept, seal
from isotone.training.inputs import Run
from isotone.training.loop import Loop
from isotone.training.progress import Progress

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
    best, saver = loop.progress.best, loop.parts.saver
    if best is None:
        raise Diverged(
            "No validation of this run gave a finite loss. Lower training.learning_rate or look at the start weights."
        )
    damaged, optimizer = False, loop.parts.optimizer
    if saver is not None and best["step"] != loop.progress.step:
        try:
            found = saver.store.read(best["step"])
            optimizer.load(found.tensors, updates=optimizer.updates, scales=optimizer.scales)
        except InputOutputError:
            damaged = True
    if loop.parts.world.share(damaged):
        loop.go_back(before=best["step"] + 1)
        return False
    return True


def export_milestones(loop: Loop, model: PreTrainedModel, folder: Path) -> dict[str, int]:
    """Write ``milestones/<share>/`` model folders below ``folder``; returns share to step."""
    saver, optimizer = loop.parts.saver, loop.parts.optimizer
    if saver is None:
        return {}
    for share, step in loop.parts.schedule.milestones.items():
        found = saver.store.read(step)
        optimizer.load(found.tensors, updates=optimizer.updates, scales=optimizer.scales)
        saver.with_room(loop.progress.step + 1, partial(save_model, model, None, folder / "milestones" / f"{share:g}"))
    return {f"{share:g}": step for share, step in loop.parts.schedule.milestones.items()}


def certificate_of(model: PreTrainedModel, job: TrainJob, train: Path, before: Mapping[str, Tensor]) -> Json:
    """The certificate of the exported model, read back: what later stages load is what is certified."""
    from isotone.constraints import calibration_ids, certify

    ids_BT = calibration_ids(train, job.constraint.calibration.tokens, job.training.length).to(model.device)
    return certify(model.eval(), job.constraint, ids_BT, before=before, stage="exported")


def result_of(loop: Loop, job: TrainJob, certificate: Mapping[str, Any], weights: str, milestones: Json) -> Json:
    """What stands in the marker and repeats bit for bit."""
    progress, parts = loop.progress, loop.parts
    return {
        "steps": progress.step,
        "updates": progress.updates,
        "epochs": job.training.epochs,
        "tokens": progress.tokens,
        "blocks": parts.schedule.blocks,
        "start_loss": progress.start_loss,
        "final_loss": (progress.validated or {}).get("loss"),
        "best": progress.best,
        "weights_sha256": weights,
        "bitwise": progress.halvings == 0 and job.training.micro_batch == "fixed",
        "micro_batch_size": progress.micro_batch_size,
        "precision": parts.engine.precision,
        "passed_over": parts.ledger.entries,
        "certificate": certificate.get("verdict"),
        "moved_share": certificate.get("moved_share"),
        "milestones": milestones,
    }


def cost_of(progress: Progress, loop: Loop) -> Json:
    """What stands in the marker and does not repeat."""
    return {
        "seconds": round(progress.seconds, 3),
        "useful_seconds": round(progress.useful, 3),
        "stall_seconds": round(progress.stall, 4),
        "processes": loop.parts.world.size,
        "device": loop.parts.world.device.type,
        "host": socket.gethostname(),
        "flags": judge.flags if (judge := loop.parts.telemetry.judge) else [],
    }


def finish(loop: Loop, model: PreTrainedModel, run: Run, before: Mapping[str, Tensor]) -> None:
    """Make the results in the state folder, where nobody else removes them (first process only).

    Args:
        before: constrained weights as they started.

    Raises:
        OSError: if something cannot be written; the checkpoints stay, so running again repeats only this.
        LostLease: if another start took over.
    """
    saver, lease = loop.parts.saver, loop.parts.lease
    if saver is None or lease is None:
        return
    made, job, identity = kept(run.folder), run.job, as_mapping(run.identity)
    tokenizer = load_tokenizer(run.start) if (run.start / "tokenizer.json").exists() else None
    saver.with_room(loop.progress.step + 1, lambda: save_model(model, tokenizer, made.model))
    certificate = certificate_of(load_model(made.model, device=model.device), job, run.train, before)
    write_json(made.certificate, certificate)
    milestones = export_milestones(loop, model, made.model)
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
        cost=cost_of(loop.progress, loop),
    )
    lease.check()
    seal(run.folder)
