"""Show all stages and runs of a study: live on a terminal, once elsewhere, as JSON with --json."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from typing import TYPE_CHECKING

from isotone.commands.studies import study_of_results
from isotone.commands.survey import Survey, survey
from isotone.progress import duration, quantity

if TYPE_CHECKING:
    from rich.console import Group

COLOURS = {
    "done": "green",
    "running": "cyan",
    "queued": "blue",
    "waiting": "bright_black",
    "paused": "yellow",
    "halted": "yellow",
    "silent": "yellow",
    "stopped": "yellow",
    "killed": "red",
    "failed": "red",
}


def options(parser: argparse.ArgumentParser) -> None:
    """Command line."""
    parser.add_argument("study", nargs="?", help="name of the study; default: the one used last")
    parser.add_argument("--json", action="store_true", help="one JSON document, for scripts")
    parser.add_argument("--once", action="store_true", help="show it once and end, also on a terminal")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between looks (default: %(default)s)")


def _text(value: float | None, form: str = "{:.4g}") -> str:
    return "" if value is None else form.format(value)


def stage_table(found: Survey) -> object:
    """Stages, with how many of their steps are in which state."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage")
    table.add_column("done", justify="right")
    table.add_column("")
    for entry in found.stages:
        rest = [
            f"[{COLOURS[state]}]{entry[state]} {state}[/]" for state in COLOURS if state != "done" and entry.get(state)
        ]
        done = entry.get("done", 0)
        colour = "green" if done == entry["total"] else "white"
        table.add_row(entry["stage"], f"[{colour}]{done} of {entry['total']}[/]", ", ".join(rest))
    return table


def run_table(found: Survey) -> object:
    """Training runs, one line each."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "state", "epoch", "step", "loss", "", "tokens/s", "left", "beat", "GPU", "notes"):
        table.add_column(
            name, justify="right" if name in ("epoch", "step", "loss", "tokens/s", "left", "beat", "GPU") else "left"
        )
    for run in found.runs:
        notes = [*(f"[yellow]{escape(flag)}[/]" for flag in run.flags), escape(run.queue)]
        table.add_row(
            escape(run.name),
            f"[{COLOURS[run.state]}]{run.state}[/]",
            _text(run.epoch, "{:.2f}"),
            "" if run.step is None else f"{run.step}/{run.steps or '?'}",
            _text(run.loss, "{:.4f}"),
            run.spark,
            "" if run.tokens_per_second is None or run.state != "running" else quantity(run.tokens_per_second),
            "" if run.eta_seconds is None else duration(run.eta_seconds),
            "" if run.heartbeat_age is None else f"{duration(run.heartbeat_age)} ago",
            _text(run.gpu, "{:.0f} %"),
            "; ".join(note for note in notes if note),
        )
    return table


def render(found: Survey) -> Group:
    """The whole screen."""
    from rich.console import Group
    from rich.markup import escape
    from rich.text import Text

    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.time))
    facts = [f"spent {duration(found.seconds)} of jobs", f"state {found.state_bytes / 1e9:.2f} GB"]
    if found.queue:
        facts.append("Slurm: " + ", ".join(f"{count} {state}" for state, count in sorted(found.queue.items())))
    parts: list[object] = [
        Text.from_markup(f"[bold]{found.study}[/]  {stamp}  " + ", ".join(facts)),
        Text(),
        stage_table(found),
        Text(),
        run_table(found),
    ]
    if found.halted:
        parts.append(
            Text.from_markup(f"\n[yellow]A HALT file exists: nothing starts until `isotone resume {found.study}`.[/]")
        )
    parts += [Text.from_markup(f"\n[yellow]{escape(hold)}[/]") for hold in found.held]
    for entry in found.failed:
        error = escape(entry["error"][:300])
        parts.append(Text.from_markup(f"\n[red]{escape(entry['what'])}[/]: {error}\n  log: {escape(entry['log'])}"))
    return Group(*parts)  # type: ignore[arg-type]


def run(arguments: argparse.Namespace) -> int:
    """Show the study; the exit code is 1 if something failed and it was shown once."""
    study, folder = study_of_results(arguments.study)
    if arguments.json:
        found = survey(study, folder)
        print(json.dumps(dataclasses.asdict(found), indent=2, allow_nan=False))
        return 1 if found.failed else 0
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)
    if arguments.once or not sys.stdout.isatty():
        found = survey(study, folder)
        console.print(render(found))
        return 1 if found.failed else 0
    from rich.live import Live

    with Live(render(survey(study, folder)), console=console, auto_refresh=False, screen=False) as live:
        try:
            while True:
                time.sleep(arguments.every)
                live.update(render(survey(study, folder)), refresh=True)
        except KeyboardInterrupt:
            return 0
