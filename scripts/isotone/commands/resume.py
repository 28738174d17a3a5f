"""Remove the HALT files of a study, so that its runs go on when they are started again."""

from __future__ import annotations

import argparse

from isotone.commands.studies import study_of_results
from isotone.layout import state_root
from isotone.training.supervision.outcome import HALT


def options(parser: argparse.ArgumentParser) -> None:
    """Command line."""
    parser.add_argument("study", nargs="?", help="name of the study; default: the one used last")


def run(arguments: argparse.Namespace) -> None:
    """Remove HALT from the study's folder and from each run's state folder."""
    _, folder = study_of_results(arguments.study)
    found = [path for path in [folder / HALT, *state_root(folder).glob(f"*/{HALT}")] if path.exists()]
    for path in found:
        path.unlink()
        print(f"removed {path}")
    if not found:
        print(f"{folder.name}: there is no {HALT} file.")
    else:
        print("Start the study again as you did before; its runs go on where they stopped.")
