"""List the state folders of a study, and remove those that no run of it needs any more.

A state folder belongs to one run with one set of settings and inputs. Change a setting that
changes the result, and the run begins in a folder of its own; the old one stays, so that going
back costs nothing. This says which are left behind, and removes them when you agree.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotone.commands.history import folder_size
from isotone.commands.studies import study_of_results
from isotone.errors import Unfinished
from isotone.layout import state_root
from isotone.progress import duration
from isotone.records import read_json_quietly
from isotone.schema import as_mapping
from isotone.studies.study import Study
from isotone.training.checkpointing.lease import Lease

NEEDED, ABANDONED, UNKNOWN, LIVE = "needed", "abandoned", "unknown", "in use"


@dataclass
class Found:
    """One state folder."""

    folder: Path
    run: str
    verdict: str
    bytes: int
    age_seconds: float


def options(parser: argparse.ArgumentParser) -> None:
    """Command line."""
    parser.add_argument("study", nargs="?", help="name of the study; default: the one used last")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="only list them (the default)")
    what.add_argument("--clean", action="store_true", help="remove the abandoned ones, after asking")
    parser.add_argument("--yes", action="store_true", help="with --clean: do not ask")


def recorded_settings(state: Path) -> Mapping[str, Any] | None:
    """The settings that a state folder was made with: from its newest checkpoint, or from its finished results."""
    for path in sorted(state.glob("checkpoints.g*/step-*/progress.json"), reverse=True):
        progress = read_json_quietly(path) or {}
        if isinstance(settings := (progress.get("identity") or {}).get("settings"), dict):
            return settings
    marker = read_json_quietly(state / "finished/train.json") or {}
    return settings if isinstance(settings := marker.get("settings"), dict) else None


def wanted_settings(study: Study) -> dict[str, Mapping[str, Any]]:
    """What the configuration asks of each trained run, by the run's name."""
    wanted: dict[str, Mapping[str, Any]] = {
        f"{arm}/seed-{seed}": as_mapping(study.train_job(arm, seed))
        for arm in study.arms
        for seed in study.seeds_of(arm)
    }
    if study.model.source == "scratch":
        wanted["pretrain"] = as_mapping(study.base_job())
    return wanted


def _in_use(state: Path) -> bool:
    """Whether a trainer holds the lease; asking changes nothing."""
    lock = state / "lock"
    beat = read_json_quietly(state / "heartbeat.json") or {}
    newest = max(lock.stat().st_mtime if lock.exists() else 0.0, float(beat.get("time") or 0.0))
    return lock.exists() and time.time() - newest < 120.0


def list_states(study: Study, folder: Path) -> list[Found]:
    """Every state folder of a study, each with what it is good for."""
    wanted = wanted_settings(study)
    found = []
    for state in sorted(path for path in state_root(folder).glob("*") if path.is_dir()):
        beat = read_json_quietly(state / "heartbeat.json") or {}
        name = str(beat.get("name") or (read_json_quietly(state / "start.json") or {}).get("name") or "?")
        settings = recorded_settings(state)
        if _in_use(state):
            verdict = LIVE
        elif settings is None:
            verdict = UNKNOWN
        else:
            verdict = NEEDED if settings == wanted.get(name) else ABANDONED
        age = time.time() - float(beat.get("time") or state.stat().st_mtime)
        found.append(Found(state, name, verdict, folder_size(state), age))
    return found


def remove(found: Found) -> bool:
    """Remove one folder, holding its lease; False if a trainer has it."""
    lease = Lease(found.folder, seconds=120.0, wait=0.0)
    try:
        lease.acquire()
    except Unfinished:
        return False
    shutil.rmtree(found.folder)
    return True


def run(arguments: argparse.Namespace) -> int:
    """List, and with --clean remove; the exit code is 1 if something could not be removed."""
    study, folder = study_of_results(arguments.study)
    states = list_states(study, folder)
    if not states:
        print(f"{folder.name}: no state folders below {state_root(folder)}.")
        return 0
    for entry in states:
        print(
            f"{entry.verdict:10} {entry.run:28} {entry.bytes / 1e9:9.3f} GB  last used {duration(entry.age_seconds)} ago  "
            f"{entry.folder}"
        )
    old = [entry for entry in states if entry.verdict == ABANDONED]
    if not arguments.clean:
        if old:
            print(f"{len(old)} abandoned: `isotone state {folder.name} --clean` removes them.")
        return 0
    if not old:
        print("Nothing is abandoned.")
        return 0
    if not arguments.yes:
        if not sys.stdin.isatty():
            print("Nothing was removed: there is nobody to ask. Say --yes if you mean it.")
            return 1
        if input(f"Remove {len(old)} abandoned folders? [y/N] ").strip().lower() != "y":
            print("Nothing was removed.")
            return 0
    kept = [entry for entry in old if not remove(entry)]
    for entry in kept:
        print(f"kept {entry.folder}: a trainer works in it.")
    print(f"removed {len(old) - len(kept)} folders, {sum(e.bytes for e in old if e not in kept) / 1e9:.3f} GB")
    return 1 if kept else 0
