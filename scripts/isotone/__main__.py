"""`isotone`, or `python -m isotone`: look at studies, judge machines, manage checkpoints. None of it needs torch."""

from __future__ import annotations

import argparse
import importlib

from isotone import errors

COMMANDS = {
    "status": "what is done, runs, waits or failed, and what it cost so far",
    "doctor": "whether this machine can do a study, before anything is submitted",
    "monitor": "what the GPUs of this machine do, a line a second",
    "estimate": "tokens, steps, FLOPs, hours and disk of a study",
    "families": "the architecture families that Isotone knows, and what each scope and certificate means there",
    "checkpoints": "list, verify or export the checkpoints of a study",
    "resume": "remove the HALT files of a study, so that its runs go on",
    "state": "state folders that no run of the study needs any more: list them, remove them",
    "schema": "write config/schema.yaml and config/README.md from the settings",
    "drill": "kill a small study on this cluster on purpose, and see that it survives",
}


def main() -> int | None:
    """Run one subcommand; each lives in ``isotone.commands`` and is imported only when asked for."""
    parser = argparse.ArgumentParser(prog="isotone", description=__doc__)
    known = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, meaning in COMMANDS.items():
        known.add_parser(name, help=meaning, description=meaning, add_help=False)
    arguments, rest = parser.parse_known_args()
    module = importlib.import_module(f"isotone.commands.{arguments.command}")
    inner = argparse.ArgumentParser(prog=f"isotone {arguments.command}", description=module.__doc__)
    module.options(inner)
    result: int | None = module.run(inner.parse_args(rest))
    return result


def start() -> None:
    """The command `isotone`, which is `python -m isotone`."""
    errors.run(main, job=False)


if __name__ == "__main__":
    start()
