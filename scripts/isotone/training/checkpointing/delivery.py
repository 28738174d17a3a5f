"""The results of a finished run: made in its state folder, then delivered to where Snakemake wants them.

Snakemake removes the outputs of a job before it starts and after it failed, also while
the program of an earlier start still works. So nothing is read from there: what is
digested, certified and delivered lies in ``finished/`` of the state folder, which only
the holder of the lease writes to. ``done.json`` is its last file.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from isotone.errors import InputOutputError
from isotone.records import Json, file_digest, folder_digest, read_json, whole_folder, write_json
from isotone.training.inputs import Outputs


def kept(folder: Path) -> Outputs:
    """Where the state folder ``folder`` keeps the results of its run."""
    place = Path(folder) / "finished"
    return Outputs(place / "model", place / "history.csv", place / "certificate.json", place / "train.json")


def seal(folder: Path) -> None:
    """Declare what `kept` names to be whole: from here on the run is done.

    Raises:
        InputOutputError: if something is missing.
    """
    outputs = kept(folder)
    write_json(Path(folder) / "done.json", {"marker": read_json(outputs.marker), "digests": _digests(outputs)})


def finished_before(folder: Path) -> bool:
    """Whether this very run is done and its results are as they were left."""
    try:
        done = read_json(Path(folder) / "done.json")
        return bool(_digests(kept(folder)) == done["digests"])
    except (InputOutputError, OSError, KeyError, TypeError):
        return False


def deliver(folder: Path, outputs: Outputs) -> None:
    """Put the results of a finished run where its caller wants them, the marker last.

    They are hard links to the kept files, which cost no room, or copies where the two
    lie on different file systems. Their times are those of the delivery, because
    Snakemake compares them with the inputs'.

    Raises:
        InputOutputError: if something cannot be written, or was removed meanwhile. The kept ones are as they were.
    """
    source, done = kept(folder), read_json(Path(folder) / "done.json")
    try:
        with whole_folder(outputs.model) as part:
            shutil.copytree(source.model, part, copy_function=_second_name, dirs_exist_ok=True)
            os.utime(part)
        for old, new in ((source.certificate, outputs.certificate), (source.history, outputs.history)):
            new.parent.mkdir(parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            _second_name(old, new)
            os.utime(new)
        if _digests(outputs) != done["digests"]:
            raise InputOutputError(f"{outputs.model} is not what was put there")
        write_json(outputs.marker, done["marker"])
    except (OSError, InputOutputError) as error:
        raise InputOutputError(
            f"The results of {outputs.marker} could not be written ({error}). The training itself is done and kept in "
            f"{folder}: make room or correct the permissions, then run this again."
        ) from None


def clean(checkpoints: Path) -> None:
    """Remove checkpoints; results, history, events and the ledger stay."""
    for entry in list(checkpoints.iterdir()):
        shutil.rmtree(entry, ignore_errors=True)


def _second_name(old: str | Path, new: str | Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # another file system, or one without links
        shutil.copyfile(old, new)


def _digests(outputs: Outputs) -> Json:
    return {
        "model": folder_digest(outputs.model),
        "certificate": file_digest(outputs.certificate),
        "history": file_digest(outputs.history),
    }
