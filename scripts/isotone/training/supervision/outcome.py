"""How a run ended, where later starts and people look for it; no torch.

``outcome.json`` is written at every end (Slurm and torchrun lose exit codes),
``refused.json`` when trying again cannot help, ``done.json`` holds the marker of a
finished run. A file ``HALT`` stops runs in good order and keeps them from starting.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from isotone.errors import (
    CONFIGURATION,
    DIVERGED,
    ConfigurationError,
    Diverged,
    Halted,
    InputOutputError,
    IsotoneError,
)
from isotone.records import Json, read_json, write_json

HALT = "HALT"
CODES = "ISOTONE_CODES"  # variable: path at which the processes of one start leave their codes, ``-<rank>`` appended


class ResourceError(ConfigurationError):
    """Exit 78 for something that another machine or another resource mends; it refuses no later start."""


def halted(folder: Path, study_folder: Path) -> Path | None:
    """The HALT file that holds this run, if there is one."""
    for place in (Path(folder) / HALT, Path(study_folder) / HALT):
        if place.exists():
            return place
    return None


def check_start(folder: Path, study_folder: Path) -> None:
    """Stop a start that cannot lead anywhere, before anything heavy is imported.

    Raises:
        Halted: a HALT file exists.
        ConfigurationError, Diverged: an earlier start with the same inputs ended so.
    """
    if place := halted(folder, study_folder):
        raise Halted(f"{place} exists, so this run does not start. Remove it with `isotone resume`.")
    path = Path(folder) / "refused.json"
    if not path.exists():
        return
    refused = read_json(path)
    error = {DIVERGED: Diverged, CONFIGURATION: ConfigurationError}.get(refused["code"], ConfigurationError)
    raise error(
        f"{refused['message']}\n  An earlier start with the same settings and inputs ended so; nothing was tried "
        f"again. Change the settings, or delete {path}."
    )


def write_outcome(folder: Path, code: int, message: str, *, step: int, steps: int) -> None:
    """Leave the code and the last step of this start; quietly nothing if the disk is full."""
    outcome = {"code": code, "message": message, "step": step, "steps": steps, "time": time.time()}
    with contextlib.suppress(OSError):
        write_json(Path(folder) / "outcome.json", outcome)


def read_outcome(folder: Path) -> Json | None:
    """The last outcome, or None if there is none or it is damaged."""
    try:
        return read_json(Path(folder) / "outcome.json")
    except InputOutputError:
        return None


def leave_code(code: int) -> None:
    """Tell a supervisor that starts several processes how this one ends; their launcher makes 1 of every code."""
    if place := os.environ.get(CODES):
        with contextlib.suppress(OSError):
            Path(f"{place}-{os.environ.get('RANK', '0')}").write_text(str(code))


def take_codes(place: Path) -> set[int]:
    """The codes that were left at ``place``; they are removed."""
    codes = set()
    for path in place.parent.glob(f"{place.name}-*"):
        with contextlib.suppress(OSError, ValueError):
            codes.add(int(path.read_text()))
            path.unlink()
    return codes


def refuse(folder: Path, error: IsotoneError) -> None:
    """Remember an end that no retry can change (exits 70 and 78)."""
    if error.code in (DIVERGED, CONFIGURATION) and not isinstance(error, ResourceError):
        write_json(Path(folder) / "refused.json", {"code": error.code, "message": str(error)})
