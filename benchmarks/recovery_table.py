"""What each constraint costs, straight after the start and after equal recovery, on two small families.

    python benchmarks/recovery_table.py --folder results/recovery_table --steps 200 --seeds 42 1337 2024

A GPT-NeoX (LayerNorm, GELU) and a Llama (RMSNorm, SiLU, gated) are pretrained on the embedded text by the
project's own trainer, then every recipe recovers with the same number of steps on the same blocks. Printed per
recipe: validation loss at step 0 and after recovery (nats per token, mean over seeds, smallest and largest),
perplexity ratio to the equally trained unconstrained model, and which share of the reference's gap (|W|, softplus)
is cut. Seeds differ in the order of recovery alone. May be stopped and started again: finished runs are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from isotone import environment
from isotone.config.constraint import Constraint
from isotone.config.data import Architecture, Model
from isotone.config.training import Operation, Training, TrainJob
from isotone.records import read_json, write_json
from isotone.schema import as_mapping, parse

ROOT = Path(__file__).resolve().parent.parent
LENGTH, BATCH = 256, 8
DISTILLED = {"distillation": {"alpha": 0.5}}
PRETRAINING = {
    "epochs": 2,
    "global_batch": 16,
    "micro_batch_size": 8,
    "learning_rate": 3e-3,
    "warm_up": 0.05,
    "schedule": "cosine",
}


@dataclass(frozen=True)
class Recipe:
    name: str
    constraint: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)


def fitted(scope: str, start: str, **more: object) -> dict:
    return {"scope": scope, "start": start, "map": "project", **more}


LAYER_NORM = [
    Recipe("unconstrained"),
    Recipe("reference: abs, softplus", {"scope": "mlp_both", "init": "abs"}),
    Recipe("no feed-forward nets", {"init": "no_ffn"}),
    Recipe("nnls, softplus, scaled rate", {"scope": "mlp_both", "init": "nnls", "learning_rate_scale": "auto"}),
    Recipe("lift, softplus", {"scope": "mlp_both", "init": "lift"}),
    Recipe("lift, isotonic GELU (certified)", {"scope": "mlp_both", "init": "lift", "activation": "isotonic"}),
    Recipe("nnls_block, project, distilled", fitted("mlp_both", "nnls_block"), DISTILLED),
    Recipe("strict cone, nnls, project, distilled", fitted("mlp_both", "nnls", cone="strict"), DISTILLED),
]
RMS_NORM = [
    Recipe("unconstrained"),
    Recipe("reference: abs, softplus", {"scope": "gated_updown", "init": "abs"}),
    Recipe("no feed-forward nets", {"init": "no_ffn"}),
    Recipe("nnls, softplus, scaled rate", {"scope": "gated_updown", "init": "nnls", "learning_rate_scale": "auto"}),
    Recipe("nnls_block, project", fitted("gated_updown", "nnls_block")),
    Recipe("nnls_block, project, distilled", fitted("gated_updown", "nnls_block"), DISTILLED),
    Recipe("nnls_block + bias, project, distilled", fitted("gated_updown", "nnls_block", add_bias=True), DISTILLED),
    Recipe("rotate, centre, lift, softplus", {"scope": "gated_all", "init": "lift", "norm": "rotate_center"}),
]
FAMILIES = {
    "gpt_neox": (Architecture(family="gpt_neox", activation="gelu", intermediate=512), LAYER_NORM),
    "llama": (Architecture(family="llama", activation="silu", intermediate=344), RMS_NORM),
}


def program(name: str, *arguments: object) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / f"{name}.py", *map(str, arguments)], check=True)


def prepare(folder: Path, architecture: Architecture) -> None:
    """Text, tokens and an untrained model, by the study's own programs."""
    data = folder / "data"
    if not (data / "corpus.json").exists():
        program("corpus", "--settings", "{}", "--documents", data / "documents", "--marker", data / "corpus.json")
    if not (folder / "setup.json").exists():
        settings = {"model": as_mapping(Model(architecture=architecture)), "base_seed": 0, "length": LENGTH}
        settings["document_start"] = "bos"
        where = ["--documents", data / "documents", "--model", folder / "init", "--marker", folder / "setup.json"]
        program("setup", "--settings", json.dumps(settings), *where)
    for split in ("train", "validation"):
        if not (data / split / "data.json").exists():
            where = ["--documents", data / f"documents/{split}.parquet", "--out", data / split]
            program("tokenize_split", "--settings", '{"document_start": "bos"}', "--tokenizer", folder / "init", *where)


def train(folder: Path, out: Path, start: Path, job: TrainJob, *, model: Path | None = None) -> dict:
    """One run of the project's trainer, in this process; its marker's result."""
    from isotone.training.identity import identify
    from isotone.training.inputs import Outputs, Run
    from isotone.training.run import train as run_trainer

    marker = out / "train.json"
    if not marker.exists():
        train_data, validation = folder / "data/train", folder / "data/validation"
        teacher = folder / "base" if job.training.distillation.alpha else None
        identity = identify(job, start, train_data, validation, teacher, folder / "state")
        outputs = Outputs(model or out / "model", out / "history.csv", out / "certificate.json", marker)
        run_trainer(
            Run(
                job=job,
                operation=Operation(tensorboard=False),
                identity=identity,
                folder=folder / "state" / identity.digest,
                study_folder=folder,
                name=str(out.relative_to(folder)),
                start=start,
                train=train_data,
                validation=validation,
                teacher=teacher,
                outputs=outputs,
            )
        )
    return read_json(marker)["result"]


def make_start(folder: Path, recipe: Recipe, out: Path) -> float:
    """Write the start of a recipe; seconds that it took (imports and loading left out)."""
    from isotone.constraints import calibration_ids, constrain
    from isotone.models import load_model, load_tokenizer, save_model

    if not (out / "seconds.json").exists():
        constraint = parse(Constraint, recipe.constraint)
        ids_BT = calibration_ids(folder / "data/train", constraint.calibration.tokens, LENGTH)
        model = load_model(folder / "base")
        began = time.monotonic()
        model = constrain(model, constraint, ids_BT)
        seconds = time.monotonic() - began
        save_model(model, load_tokenizer(folder / "base"), out / "model")
        write_json(out / "seconds.json", {"seconds": seconds})
    return read_json(out / "seconds.json")["seconds"]


def job_of(recipe: Recipe, seed: int, steps: int, rate: float) -> TrainJob:
    training = {
        "global_batch": BATCH,
        "micro_batch_size": BATCH,
        "length": LENGTH,
        "learning_rate": rate,
        "max_steps": steps,
    }
    training |= {"epochs": 10.0, "weight_decay": 0.01, **recipe.training}
    return TrainJob(seed, training=parse(Training, training), constraint=parse(Constraint, recipe.constraint))


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.replace("(certified)", "")).strip("_")


def family_rows(folder: Path, recipes: list[Recipe], options: argparse.Namespace) -> list[dict]:
    rows = []
    for recipe in recipes:
        arm = folder / slug(recipe.name)
        seconds = make_start(folder, recipe, arm / "start")
        results, verdicts = [], set()
        for seed in options.seeds:
            out = arm / f"steps-{options.steps}-seed-{seed}"
            results.append(train(folder, out, arm / "start/model", job_of(recipe, seed, options.steps, options.rate)))
            paper = read_json(out / "certificate.json")
            verdicts.add(paper["verdict"] + (" (vacuous)" if paper["vacuous"] else ""))
        after = [result["best"]["loss"] for result in results]
        rows.append(
            {
                "recipe": recipe.name,
                "start": results[0]["start_loss"],
                "after": sum(after) / len(after),
                "smallest": min(after),
                "largest": max(after),
                "moved": min((result["moved_share"] for result in results if result["moved_share"]), default=None),
                "verdict": ", ".join(sorted(verdicts)),
                "start_seconds": seconds,
            }
        )
        print(f"{recipe.name}: {rows[-1]['start']:.4f} -> {rows[-1]['after']:.4f}", file=sys.stderr, flush=True)
    free, reference = rows[0]["after"], rows[1]["after"]
    for row in rows:
        row["ratio"] = math.exp(row["after"] - free)
        row["cut"] = (reference - row["after"]) / (reference - free)
    return rows


def table(rows: list[dict]) -> str:
    lines = [
        "| recipe | start | after recovery (min to max) | perplexity ratio | gap cut | moved | certificate | start took |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        moved = "-" if row["moved"] is None else f"{100 * row['moved']:.1f} %"
        lines.append(
            f"| {row['recipe']} | {row['start']:.4f} | {row['after']:.4f} ({row['smallest']:.4f} to {row['largest']:.4f}) | "
            f"{row['ratio']:.3f} | {100 * row['cut']:.1f} % | {moved} | {row['verdict']} | {row['start_seconds']:.1f} s |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("results/recovery_table"))
    parser.add_argument("--steps", type=int, default=200, help="recovery steps of 2048 tokens")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of recovery, the same for every recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1337, 2024])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument(
        "--recipes", nargs="+", default=[""], help="besides the first two, those whose name holds one of these"
    )
    options = parser.parse_args()
    environment.prepare()
    for name in options.families:
        architecture, recipes = FAMILIES[name]
        wanted = [recipe for recipe in recipes[2:] if any(part in recipe.name for part in options.recipes)]
        recipes = recipes[:2] + wanted
        folder = options.folder / name
        prepare(folder, architecture)
        pretraining = TrainJob(training=parse(Training, PRETRAINING | {"length": LENGTH, "weight_decay": 0.1}))
        if not (folder / "base/model.safetensors").exists():
            train(folder, folder / "pretrain", folder / "init", pretraining, model=folder / "base")
        rows = family_rows(folder, recipes, options)
        write_json(folder / f"table-{options.steps}.json", rows)
        tokens = options.steps * BATCH * LENGTH
        print(
            f"\n{name}, {options.steps} steps of {BATCH * LENGTH} tokens ({tokens / 1e6:.2f} M), seeds {options.seeds}, "
        )
        print(
            f"learning rate {options.rate:g}, validation nats per token, {os.cpu_count()} cores\n\n{table(rows)}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
