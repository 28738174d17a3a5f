"""Going on under other settings: what an earlier start of the same run left in its own state folder.

The settings name the state folder, so a start under other settings finds an empty one.
Where they change only how a step is computed (a smaller micro-batch after memory ran
out), the checkpoints of the other folder are taken over. Where they change the result,
the run begins anew, and says why and what stays behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotone.errors import InputOutputError
from isotone.records import Json, read_json, sync_folder, write_json
from isotone.schema import as_mapping
from isotone.training.checkpointing.lease import Lease
from isotone.training.inputs import Run

IDENTITY = "identity.json"
RECORDS = ("ledger.json", "history.csv", "flags.json")


@dataclass(frozen=True)
class Left:
    """Checkpoints of the same run under other settings.

    Attributes:
        how: differences that change only how a step is computed, in words.
        result: differences that change the result, in words.
        bytes: on the disk; those with a hard link elsewhere are counted too.
    """

    folder: Path
    step: int
    bytes: int
    how: list[str]
    result: list[str]


def sign(run: Run) -> None:
    """Leave word in the state folder of which run it is, and under which settings."""
    write_json(
        run.folder / IDENTITY,
        {"name": run.name, "study": run.study_folder.name, "identity": as_mapping(run.identity)},
    )


def left_behind(run: Run) -> list[Left]:
    """What unfinished starts of this run left under other settings, the newest step last."""
    found = []
    for path in run.folder.parent.glob(f"*/{IDENTITY}"):
        folder = path.parent
        steps = sorted(folder.glob("checkpoints.g*/step-*"))
        if folder == run.folder or not steps or (folder / "done.json").exists():
            continue
        with contextlib.suppress(InputOutputError, OSError, KeyError, TypeError):
            word = read_json(path)
            if (word["name"], word["study"]) == (run.name, run.study_folder.name):
                how, result = run.identity.changes(word["identity"])
                size = sum(file.stat().st_size for step in steps for file in step.iterdir())
                found.append(Left(folder, max(int(step.name[-9:]) for step in steps), size, how, result))
    return sorted(found, key=lambda left: left.step)


def adopt(run: Run, lease: Lease, event: Callable[..., Any]) -> None:
    """Take over the newest checkpoints that were made under settings with the same result, if this run has none.

    They are hard-linked here, which costs no room; the other folder keeps its own, so
    that its settings go on from there too.

    Args:
        lease: of this run's folder, held.

    Raises:
        Unfinished: another trainer still works there.
        OSError: if they can be neither linked nor copied.
    """
    shutil.rmtree(run.folder / ".adopting", ignore_errors=True)
    if any(lease.checkpoints.iterdir()) or (run.folder / "done.json").exists():
        return
    others = left_behind(run)
    kin = [left for left in others if not left.result]
    if kin:
        _take_over(run, lease, kin[-1], event)
        return
    for left in others:
        event(
            "left_behind",
            message=f"this run starts at step 0, because other settings change its result: {'; '.join(left.result)}. "
            f"Step {left.step} of an earlier start ({left.bytes / 1e9:.2f} GB) stays in {left.folder}; with its "
            "settings it goes on from there.",
        )


def _take_over(run: Run, lease: Lease, left: Left, event: Callable[..., Any]) -> None:
    other = Lease(left.folder, seconds=run.operation.lease, wait=run.operation.lock_wait)
    source = other.acquire(lambda text: event("waiting", message=text))
    try:
        part = run.folder / ".adopting"
        shutil.copytree(source, part, copy_function=_second_name, ignore=shutil.ignore_patterns(".*", "damaged-*"))
        for name in RECORDS:
            if (left.folder / name).exists():
                shutil.copyfile(left.folder / name, run.folder / name)
        os.rename(part, lease.checkpoints)  # all or nothing: it takes the place of the empty folder
        sync_folder(run.folder)
    finally:
        other.release()
    event(
        "adopted",
        message=f"this run goes on from the checkpoints in {left.folder}: {'; '.join(left.how)} changes only how a step "
        "is computed",
        step=left.step,
    )


def _second_name(old: str, new: str) -> None:
    try:
        os.link(old, new)
    except OSError:  # a file system without links
        shutil.copyfile(old, new)


def admit(run: Run, progress: Json) -> bool:
    """Bring a checkpoint's state in line with this start's settings.

    What changes only how a step is computed is noted in ``progress["changes"]``: from that
    step on the digits are others than those of a run under one setting.

    Returns:
        whether the size of the micro-batch must be chosen anew.

    Raises:
        ConfigurationError: the checkpoint was made by another run.
    """
    how, result = run.identity.changes(progress["identity"])
    run.identity.refuse(result, run.folder)
    if how:
        progress["changes"] = [*progress.get("changes", []), {"step": progress["step"], "settings": how}]
        progress["identity"] = as_mapping(run.identity)
    return any("micro_batch" in words for words in how)
