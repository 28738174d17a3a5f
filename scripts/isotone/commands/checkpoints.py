"""List the checkpoints of a study; verify them against their digests; export one as a plain model folder."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isotone.commands.history import folder_size
from isotone.commands.studies import study_of_results
from isotone.errors import ConfigurationError, InputOutputError
from isotone.layout import state_root
from isotone.progress import Progress, duration
from isotone.records import read_json, read_json_quietly
from isotone.training.checkpointing.manifest import damage, read_manifest

STEP = re.compile(r"step-(\d{9})$")


@dataclass
class Found:
    """One checkpoint on disk."""

    run: str
    step: int
    folder: str
    bytes: int
    age_seconds: float
    best: bool
    verdict: str = "not verified"


def options(parser: argparse.ArgumentParser) -> None:
    """Command line."""
    parser.add_argument("study", nargs="?", help="name of the study; default: the one used last")
    parser.add_argument("--verify", action="store_true", help="read every file and compare its SHA-256")
    parser.add_argument("--export", type=Path, metavar="DIR", help="write one checkpoint as a Hugging Face folder")
    parser.add_argument(
        "--run", help="only this run, such as mlp_both/seed-42 (needed for --export if there are several)"
    )
    parser.add_argument("--step", type=int, help="only this step; default of --export: the newest that is whole")
    parser.add_argument("--json", action="store_true", help="one JSON document, for scripts")


def _best_step(checkpoint: Path) -> int | None:
    progress = read_json_quietly(checkpoint / "progress.json") or {}
    best = progress.get("best")
    return int(best["step"]) if isinstance(best, dict) and "step" in best else None


def list_checkpoints(root: Path) -> Iterator[Found]:
    """Every ``step-*`` folder below a state root, by run and step."""
    now = time.time()
    for state in sorted(path for path in root.glob("*") if path.is_dir()):
        beat = read_json_quietly(state / "heartbeat.json") or {}
        name = str(beat.get("name") or state.name[:12])
        folders = sorted(path for path in state.glob("checkpoints.g*/step-*") if STEP.search(path.name))
        best = _best_step(folders[-1]) if folders else None
        for folder in folders:
            match = STEP.search(folder.name)
            step = int(match[1]) if match else -1
            yield Found(name, step, str(folder), folder_size(folder), now - folder.stat().st_mtime, step == best)


def verify(folder: Path) -> str:
    """``whole``, or what is wrong with a checkpoint."""
    try:
        found = damage(folder)
    except OSError as error:  # a disk that cannot be read is no reason to stop looking at the others
        found = str(error)
    return f"damaged: {found}" if found else "whole"


def export(found: Found, study_folder: Path, target: Path) -> None:
    """Write a checkpoint's weights as an ordinary model folder (this is the part that needs torch).

    Raises:
        ConfigurationError: if the target exists or the start that gives its shape is gone.
    """
    if target.exists():
        raise ConfigurationError(f"--export {target} exists already. Name a new folder.")
    arm = found.run.partition("/")[0]
    start = study_folder / "init" if found.run == "pretrain" else study_folder / "starts" / arm / "model"
    if not start.is_dir():
        raise ConfigurationError(f"{start} is missing; it holds the configuration of {found.run}. Make it again first.")
    import torch

    from isotone.config.training import TrainJob
    from isotone.constraints import weight_maps
    from isotone.models import load_model, load_tokenizer, save_model
    from isotone.schema import parse
    from isotone.training.checkpointing.tensors import read_tensors

    # Not through the trainer's store: opening that clears away what a live trainer is writing.
    folder = Path(found.folder)
    weights = read_tensors(folder / "weights.safetensors", read_manifest(folder)["weights.safetensors"])
    job = parse(TrainJob, read_json(folder / "progress.json")["identity"]["settings"], found.folder)
    model = load_model(start)
    maps = weight_maps(model, job.constraint)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(maps[name].forward(value) if name in maps else value)
    tokenizer = load_tokenizer(start) if (start / "tokenizer.json").exists() else None
    save_model(model, tokenizer, target)


def _choose(found: list[Found]) -> Found:
    runs = sorted({entry.run for entry in found})
    if len(runs) > 1:
        raise ConfigurationError(f"--export needs --run: this study has checkpoints of {', '.join(runs)}.")
    for entry in sorted(found, key=lambda entry: -entry.step):
        entry.verdict = verify(Path(entry.folder))
        if entry.verdict == "whole":
            return entry
    raise InputOutputError(f"--export: none of the {len(found)} checkpoints is whole.")


def run(arguments: argparse.Namespace) -> int:
    """List; the exit code is 1 if --verify finds damage."""
    _, folder = study_of_results(arguments.study)
    found = [
        entry
        for entry in list_checkpoints(state_root(folder))
        if arguments.run in (None, entry.run) and arguments.step in (None, entry.step)
    ]
    if arguments.export:
        if not found:
            raise ConfigurationError(
                f"{folder.name} holds no such checkpoint. Finished runs keep none unless operation.keep_state is true; "
                "their weights stand in runs/<arm>/seed-<n>/model."
            )
        chosen = _choose(found)
        export(chosen, folder, arguments.export)
        print(f"{chosen.run}, step {chosen.step}: {arguments.export}")
        return 0
    if arguments.verify:
        with Progress("verify", sum(entry.bytes for entry in found), "bytes") as progress:
            for entry in found:
                entry.verdict = verify(Path(entry.folder))
                progress.add(entry.bytes)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in found], indent=2))
    else:
        for entry in found:
            age, size = duration(entry.age_seconds), entry.bytes / 2**20
            best = " (best)" if entry.best else ""
            print(f"{entry.run}  step {entry.step}{best}  {size:.1f} MiB  {age} ago  {entry.verdict}  {entry.folder}")
        if not found:
            print(f"{folder.name}: no checkpoints.")
    return 1 if any(entry.verdict.startswith("damaged") for entry in found) else 0
