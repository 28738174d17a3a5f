"""Judge this machine for a study before anything is submitted: green, yellow or red, and what to do about each red."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from isotone.planning.checks import machine as checks
from isotone.planning.checks import slurm as checks_slurm
from isotone.studies.reading import study_of

MARKS = {"green": "ok  ", "yellow": "note", "red": "FAIL"}
COLOURS = {"green": "\x1b[32m", "yellow": "\x1b[33m", "red": "\x1b[31m"}


@dataclass(frozen=True)
class Finding:
    """One check's verdict.

    Attributes:
        colour: green: fine; yellow: works, but know this; red: will fail, and the text says what to do.
    """

    check: str
    colour: str
    text: str


def options(parser: argparse.ArgumentParser) -> None:
    """Command line."""
    parser.add_argument(
        "--configfile", nargs="+", default=["config/config.yaml"], help="the study, and overlays on top"
    )
    parser.add_argument("--profile", type=Path, help="also judge this profile (profiles/slurm)")
    parser.add_argument("--json", action="store_true", help="one JSON document, for scripts")


def examine(tests: list[tuple[str, Callable[[], tuple[str, str]]]]) -> list[Finding]:
    """Run checks one after the other; a check that itself fails is yellow, not the end."""
    found = []
    for name, test in tests:
        try:
            colour, text = test()
        except Exception as error:
            colour, text = "yellow", f"could not be checked ({type(error).__name__}: {error})"
        found.append(Finding(name, colour, text))
    return found


def run(arguments: argparse.Namespace) -> int:
    """Print every finding; the exit code is 1 if one is red."""
    study = study_of(arguments.configfile)
    folder = Path("results") / study.study
    tests = checks.all_checks(study, folder)
    if arguments.profile:
        tests += checks_slurm.all_checks(study, folder, arguments.profile)
    found = examine(tests)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in found], indent=2))
    else:
        import sys

        for finding in found:
            mark = MARKS[finding.colour]
            mark = f"{COLOURS[finding.colour]}{mark}\x1b[0m" if sys.stdout.isatty() else mark
            print(f"{mark}  {finding.check}: {finding.text}")
    return 1 if any(finding.colour == "red" for finding in found) else 0
