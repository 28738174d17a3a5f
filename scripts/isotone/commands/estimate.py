"""Tokens, steps, FLOPs, hours and disk of a study, stage by stage, before it starts."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from isotone.planning.estimate import DEVICES, REACHED, Estimate, Stage
from isotone.progress import duration, quantity
from isotone.studies.reading import study_of


def options(parser: argparse.ArgumentParser) -> None:
    """Command line."""
    parser.add_argument(
        "--configfile", nargs="+", default=["config/config.yaml"], help="the study, and overlays on top"
    )
    parser.add_argument("--device", choices=sorted(DEVICES), default="h100", help="what it would run on")
    parser.add_argument("--count", type=int, default=1, help="devices (or CPU cores) that work at the same time")
    parser.add_argument("--tokens-per-document", type=float, default=1500.0, help="assumed until the data is tokenised")
    parser.add_argument("--json", action="store_true", help="one JSON document, for scripts")


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    study = study_of(arguments.configfile)
    folder = Path("results") / study.study
    estimate = Estimate(study, folder, arguments.device, arguments.count, arguments.tokens_per_document)
    stages = estimate.stages()
    total: dict[str, Any] = {
        key: sum(getattr(stage, key) for stage in stages)
        for key in ("jobs", "tokens", "steps", "flops", "hours", "disk")
    }
    if arguments.json:
        plain = [dataclasses.asdict(stage) for stage in stages]
        print(json.dumps({"study": study.study, "stages": plain, "total": total, "notes": estimate.notes()}, indent=2))
        return
    print(
        f"{study.study}: {quantity(estimate.shape.parameters)} parameters, on {arguments.count} x {arguments.device}\n"
    )
    print(f"{'stage':<20}{'jobs':>6}{'tokens':>10}{'steps':>9}{'FLOPs':>11}{'time':>9}{'disk':>11}")
    for stage in [*stages, Stage("all", **total)]:
        print(
            f"{stage.stage:<20}{stage.jobs:>6}{quantity(stage.tokens):>10}{stage.steps:>9}{stage.flops:>11.2e}"
            f"{duration(stage.hours * 3600):>9}{stage.disk / 1e9:>8.2f} GB"
        )
    print(
        f"\n{arguments.device} hours: {total['hours'] * arguments.count:.2f} (at {REACHED:.0%} of the peak arithmetic)"
    )
    for note in estimate.notes():
        print(note)
