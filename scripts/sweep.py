"""Choose the winner of a sweep on validation text, and write it as an overlay for the full study.

A sweep is a study of its own with a short budget. Train it, then choose:

    snakemake --profile profiles/local train_all --configfile config/config.yaml config/overlays/sweep.yaml
    python scripts/sweep.py config/config.yaml config/overlays/sweep.yaml --ceiling 1.5 --winner winner.yaml
    snakemake --profile profiles/local --configfile config/config.yaml winner.yaml

The rule: among arms whose perplexity ratio on validation text is at most the ceiling, the
largest excess robustness (hotflip) over the least robust control. The test text is not read.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from isotone import errors, records
from isotone.controls.selection import Measured, choose
from isotone.layout import Layout
from isotone.schema import as_mapping
from isotone.studies.reading import study_of
from isotone.studies.study import Study

PROGRAMS = Path(__file__).resolve().parent
VARIANT = "greedy"


def program(name: str, *arguments: object) -> None:
    """Run a program of the workflow; its own message is the explanation if it fails."""
    code = subprocess.run([sys.executable, PROGRAMS / f"{name}.py", *map(str, arguments)], check=False).returncode
    if code:
        raise errors.IsotoneError(f"scripts/{name}.py ended with {code}; what it said stands above.")


def attack(study: Study, folder: Path, arm: str, seed: int) -> float:
    """Mean damage J of hotflip on validation text, nats per token; kept if it is there."""
    shared = {"shared": as_mapping(study.attacks.shared), "document_start": study.data.document_start}
    documents, out = folder / "sweep/documents", folder / f"sweep/{arm}/seed-{seed}"
    if not (documents / "manifest.json").exists():
        where = ["--test", folder / "data/validation", "--search", folder / "data/attack_search", "--out", documents]
        settings = records.canonical_json(shared)
        program("attack_documents", "--settings", settings, "--tokenizer", folder / "base", *where)
    marker = out / "hotflip.json"
    if not marker.exists():
        settings = records.canonical_json(shared | {"hotflip": as_mapping(study.attacks.hotflip)})
        model = Layout(str(folder)).run(arm, seed).model
        where = ["--rows", out / "hotflip.jsonl", "--cost", out / "hotflip.cost.jsonl", "--marker", marker]
        program(
            "attack", "--attack", "hotflip", "--settings", settings, "--model", model, "--documents", documents, *where
        )
    return float(records.read_json(marker)["result"][VARIANT]["J_mean"])


def trained(study: Study, folder: Path, arm: str, seed: int) -> records.Json:
    """The result of one run.

    Raises:
        ConfigurationError: if it has not been trained yet; names the target.
    """
    marker = Path(Layout(str(folder)).run(arm, seed).marker)
    if not marker.exists():
        raise errors.ConfigurationError(
            f"{marker} is missing: the sweep {study.study} is not trained. Run `snakemake ... train_all` with the same "
            "configuration files first."
        )
    return records.read_json(marker)["result"]


def measure(study: Study, folder: Path, arm: str) -> Measured:
    """An arm and its controls, on validation text."""
    seeds = study.seeds_of(arm)
    reference = study.report.baseline
    controls: dict[str, list[float]] = {}
    names = [name for name in study.control_arms() if name.startswith(f"{arm}~")]
    if not names:  # a gauge lift keeps the baseline's function, and is compared with the baseline itself
        controls[reference] = [attack(study, folder, reference, seed) for seed in seeds]
    for name in names:
        kind = name.partition("~")[2]
        if all(trained(study, folder, name, seed).get("control", {}).get("found", True) for seed in seeds):
            controls[kind] = [attack(study, folder, name, seed) for seed in seeds]
    return Measured(
        arm,
        nll=[trained(study, folder, arm, seed)["best"]["loss"] for seed in seeds],
        baseline_nll=[trained(study, folder, reference, seed)["best"]["loss"] for seed in seeds],
        damage=[attack(study, folder, arm, seed) for seed in seeds],
        controls=controls,
    )


def table(measured: list[Measured], ceiling: float) -> str:
    """What was measured, one line per arm."""
    lines = [f"{'arm':24} perplexity ratio   J (nats)   excess over controls (nats)"]
    for arm in measured:
        excess = "no control" if arm.excess is None else f"{arm.excess:+.4f}"
        above = "" if arm.ratio <= ceiling else f"   above the ceiling of {ceiling:g}"
        lines.append(f"{arm.arm:24} {arm.ratio:16.4f} {sum(arm.damage) / len(arm.damage):10.4f}   {excess}{above}")
    return "\n".join(lines)


def overlay(study: Study, winner: str) -> dict[str, Any]:
    """The arms of the full study: the reference and the winner; the others are left out."""
    kept = {winner, study.report.baseline}
    arms = {name: as_mapping(arm) if name in kept else None for name, arm in study.arms.items()}
    return {"arms": arms}


def main() -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configfile", type=Path, nargs="+", help="the sweep's study, and overlays on top of it")
    parser.add_argument("--ceiling", type=float, default=1.5, help="largest perplexity ratio that may win")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--winner", type=Path, default=Path("winner.yaml"), help="overlay to write")
    options = parser.parse_args()
    study = study_of(options.configfile)
    if study.controls.match != "validation":
        raise errors.ConfigurationError(
            f"controls.match is {study.controls.match}: these controls are matched on the text that the full study attacks, which a "
            "sweep must not read. Write `controls: {match: validation}` into the sweep's overlay."
        )
    folder = options.results / study.study
    measured = [measure(study, folder, arm) for arm in study.constrained_arms()]
    report = table(measured, options.ceiling)
    print(report)
    winner = choose(measured, options.ceiling)
    if winner is None:
        raise errors.ConfigurationError(
            f"No arm of {study.study} has a perplexity ratio of at most {options.ceiling:g} and a control to compare with, "
            "so none wins. Add better recipes or a longer budget; the ceiling is part of the question and is not relaxed."
        )
    text = "".join(
        f"# {line}\n" for line in [f"Winner of the sweep {study.study}, on validation text:", *report.split("\n")]
    )
    with records.whole_file(options.winner) as file:
        file.write(text + yaml.safe_dump(overlay(study, winner.arm), sort_keys=False))
    print(f"winner: {winner.arm}, written to {options.winner}")
    return None


if __name__ == "__main__":
    errors.run(main)
