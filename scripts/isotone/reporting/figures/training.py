"""Figures on the runs themselves: loss curves, time line, order preservation by depth."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from isotone.records import Json
from isotone.reporting.figures.style import COLUMN, canvas, look

History = dict[str, np.ndarray]


def read_history(path: Path) -> History:
    """Columns of history.csv as float64; empty cells are NaN (validation is measured now and then)."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [
        name
        for name in (rows[0] if rows else {})
        if name in ("step", "epoch", "tokens", "loss", "validation_loss", "seconds")
    ]
    return {name: np.array([float(row[name]) if row[name] else np.nan for row in rows]) for name in names}


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean that does not shift the curve; the ends use what is there."""
    if window < 2 or len(values) <= window:
        return values
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def training_curves(results: Json, folder: Path) -> Any:
    """Training loss per arm, mean of seeds with their range as a band; validation as points."""
    settings = results["settings"]
    arms = list(settings["arms"])
    figure, axes = canvas(height=2.5)
    for arm in arms:
        seeds = settings["seeds"][:1] if settings["arms"][arm]["seeds"] == "once" else settings["seeds"]
        histories = [read_history(folder / "runs" / arm / f"seed-{seed}" / "history.csv") for seed in seeds]
        histories = [history for history in histories if len(history.get("step", []))]
        if not histories:
            continue
        style = look(arms, arm)
        length = min(len(history["step"]) for history in histories)
        losses = np.stack([smooth(history["loss"][:length], max(1, length // 40)) for history in histories])
        steps = histories[0]["step"][:length]
        axes.plot(steps, losses.mean(0), label=arm, color=style["color"], linestyle=style["linestyle"])
        axes.fill_between(steps, losses.min(0), losses.max(0), color=style["color"], alpha=0.15, linewidth=0)
        for history in histories:
            if "validation_loss" in history:
                axes.plot(
                    history["step"],
                    history["validation_loss"],
                    style["marker"],
                    color=style["color"],
                    markersize=3,
                    markerfacecolor="white",
                )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats/token")
    axes.legend(ncols=2)
    return figure


def order_by_depth(results: Json) -> Any:
    """Share of probe coordinates that keep the order, by layer, with the nulls as thin lines."""
    if not results["order"]:
        return None
    arms = list(results["settings"]["arms"])
    figure, axes = canvas(height=2.4)
    drawn = False
    for arm, layers in results["order"].items():
        style = look(arms, arm)
        share = [(entry["layer"], entry["share"]) for entry in layers if "share" in entry]
        if share:
            drawn = True
            axes.plot(*zip(*share, strict=True), label=arm, **style)
        for key, line in (("shuffled", ":"), ("random", "--")):
            null = [(entry["layer"], entry[key]) for entry in layers if key in entry]
            if null:
                axes.plot(*zip(*null, strict=True), color=style["color"], linestyle=line, linewidth=0.6, alpha=0.6)
    axes.set_xlabel("layer")
    axes.set_ylabel("share in order")
    if drawn:
        axes.legend(ncols=2)
    return figure if drawn else None


MARKS = {
    "save": ("|", "#0072B2", "checkpoint"),
    "signal": ("v", "#D55E00", "signal"),
    "resume": (">", "#009E73", "resumed"),
    "exit": ("x", "#000000", "exit"),
}


def read_events(folder: Path) -> dict[str, list[Json]]:
    """events.jsonl of every run that left one under the study's state folder, by run."""
    found: dict[str, list[Json]] = {}
    for path in sorted(folder.glob("state/*/events.jsonl")) + sorted(folder.glob("runs/*/*/events.jsonl")):
        events = []
        for line in path.read_text(encoding="utf-8").split("\n"):
            try:
                events.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # the last line of a killed run may be cut off
        name = next((str(event["name"]) for event in events if event.get("name")), path.parent.name[:12])
        found.setdefault(name, []).extend(events)
    return found


def _when(event: Json) -> float | None:
    value = event.get("time")
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return None


def timeline(folder: Path) -> Any:
    """When each run trained, saved, was stopped and went on; None where no run left events."""
    rows = {}
    for name, events in read_events(folder).items():
        times = [(when, event) for event in events if (when := _when(event)) is not None]
        if times:
            rows[name] = sorted(times, key=lambda pair: pair[0])
    if not rows:
        return None
    start = min(times[0][0] for times in rows.values())
    figure, axes = canvas(height=0.8 + 0.16 * len(rows), width=COLUMN * 1.5)
    seen = set()
    for row, times in enumerate(rows.values()):
        begun = None
        for when, event in times:
            kind = event.get("event", event.get("kind", ""))
            if kind in ("start", "resume"):
                begun = when
            if kind == "exit" and begun is not None:
                axes.plot(
                    [(begun - start) / 60, (when - start) / 60],
                    [row, row],
                    color="#bbbbbb",
                    linewidth=3,
                    solid_capstyle="butt",
                )
                begun = None
            if kind in MARKS:
                mark, colour, label = MARKS[kind]
                axes.plot(
                    (when - start) / 60, row, mark, color=colour, markersize=4, label=None if label in seen else label
                )
                seen.add(label)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("minutes since the first run began")
    if seen:
        figure.legend(loc="outside lower center", ncols=4)
    return figure
