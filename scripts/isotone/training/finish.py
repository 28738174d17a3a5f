"""The end of a run: the best model, its certificate, the marker; then the state is cleaned."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from isotone.config.schema import as_mapping
from isotone.config.training import TrainJob
from isotone.errors import Diverged, InputOutputError
from isotone.models import load_model, load_tokenizer, save_model
from isotone.records import Json, digest_of, file_digest, read_json, whole_file, whole_folder, write_json, write_marker
from isotone.training.checkpoints import Store
from isotone.training.inputs import Outputs, Run
from isotone.training.loop import Loop
from isotone.training.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def weights_digest(folder: Path) -> str:
    """SHA-256 of a model folder's weights (of the file, if there is only one)."""
    files = sorted(Path(folder).glob("*.safetensors"))
    digests = [file_digest(path) for path in files]
    return digests[0] if len(digests) == 1 else digest_of(digests)


def _kept(folder: Path) -> Outputs:
    """Where the state folder keeps hard links to the results."""
    kept = Path(folder) / "finished"
    return Outputs(kept / "model", kept / "history.csv", kept / "certificate.json", kept / "train.json")


def _link(source: Outputs, target: Outputs) -> None:
    """Give the files of ``source`` second names; costs no room.

    Raises:
        OSError: if the two lie on different file systems.
    """
    with whole_folder(target.model) as part:
        shutil.copytree(source.model, part, copy_function=os.link, dirs_exist_ok=True)
    for old, new in ((source.certificate, target.certificate), (source.history, target.history)):
        new.unlink(missing_ok=True)
        os.link(old, new)


def _stand(outputs: Outputs, done: Json) -> bool:
    try:
        return (
            weights_digest(outputs.model) == done["outputs"]["model"]
            and file_digest(outputs.certificate) == done["outputs"]["certificate"]
            and file_digest(outputs.history) == done["history"]
        )
    except (InputOutputError, OSError, IndexError, KeyError):
        return False


def finished_before(folder: Path, outputs: Outputs) -> bool:
    """Write the marker again if this very run is done and its outputs stand, or can be put back, as they were left.

    Snakemake removes the outputs of a job that ended badly, also where the cluster ended it a second after the
    training was done; what took days must survive that.
    """
    path = Path(folder) / "done.json"
    if not path.exists():
        return False
    try:
        done = read_json(path)
        if not _stand(outputs, done) and _stand(_kept(folder), done):
            _link(_kept(folder), outputs)
    except (InputOutputError, OSError):
        return False
    if whole := _stand(outputs, done):
        write_json(outputs.marker, done["marker"])
    return whole


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
        save_model(model, None, folder / "milestones" / f"{share:g}")
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
        "bitwise": progress.halvings == 0 and job.training.micro_batch == "leaf",
        "leaf": progress.leaf,
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
    """Export everything, the marker last, and clean the state (first process only).

    Args:
        before: constrained weights as they started.

    Raises:
        InputOutputError: if an output cannot be written; the state stays, so running again repeats only this.
    """
    saver = loop.parts.saver
    if saver is None:
        return
    progress, outputs, folder, job, identity = loop.progress, run.outputs, run.folder, run.job, run.identity
    try:
        save_model(model, load_tokenizer(run.start) if (run.start / "tokenizer.json").exists() else None, outputs.model)
        certificate = certificate_of(load_model(outputs.model, device=model.device), job, run.train, before)
        write_json(outputs.certificate, certificate)
        milestones = export_milestones(loop, model, outputs.model)
        with whole_file(outputs.history) as file:
            file.write((folder / "history.csv").read_text())
        weights = weights_digest(outputs.model)
        made = {"model": weights, "certificate": file_digest(outputs.certificate)}
        inputs = {key: value for key, value in as_mapping(identity).items() if key != "settings"}
        write_marker(
            outputs.marker,
            "train",
            settings=as_mapping(job),
            inputs=inputs,
            outputs=made,
            result=result_of(loop, job, certificate, weights, milestones),
            cost=cost_of(progress, loop),
        )
        done = {"marker": read_json(outputs.marker), "outputs": made, "history": file_digest(outputs.history)}
        with contextlib.suppress(OSError):  # on another file system there is no second name
            _link(outputs, _kept(folder))
        write_json(folder / "done.json", done)
    except OSError as error:
        raise InputOutputError(
            f"The results of {outputs.marker} could not be written ({error}). The training itself is done and kept in "
            f"{folder}: make room or correct the permissions, then run this again."
        ) from None
    if not run.operation.keep_state:
        clean(saver.store)


def clean(store: Store) -> None:
    """Remove checkpoints; history, events and the ledger stay."""
    for entry in list(store.folder.iterdir()):
        shutil.rmtree(entry, ignore_errors=True)
