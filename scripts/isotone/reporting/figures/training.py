"""Figures on the runs themselves: loss curves, time line, order preservation by depth."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from isotone.records import Json
from isotone.reporting.figures.style import COLUMN, canvas, look, shared_legend
from isotone.training.telemetry.reading import read_history
from isotone.training.telemetry.rotation import read_lines

History = dict[str, np.ndarray]


def columns_of(path: Path) -> History:
    """Columns of history.csv as float64; empty cells are NaN (validation is measured now and then)."""
    rows = read_history(path)
    return {name: np.array([row[name] for row in rows], dtype=float) for name in (rows[0] if rows else {})}


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean that does not shift the curve; the ends use what is there."""
    if window < 2 or len(values) <= window:
        return values
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def training_curves(results: Json, folder: Path) -> Any:
    """Training loss per arm, mean of seeds with their range as a band; validation as points."""
    settings = results["settings"]
    arms = results["arms"]
    figure, axes = canvas(height=2.7)
    for arm in arms:
        seeds = settings["seeds"][:1] if settings["arms"][arm]["seeds"] == "once" else settings["seeds"]
        histories = [columns_of(folder / "runs" / arm / f"seed-{seed}" / "history.csv") for seed in seeds]
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
    if axes.has_data():
        shared_legend(figure, axes)
    return figure


def order_by_depth(results: Json) -> Any:
    """Share of probe coordinates that keep the order, by layer, with the nulls as thin lines."""
    if not results["order"]:
        return None
    arms = results["arms"]
    figure, axes = canvas(height=2.7)
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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if drawn:
        shared_legend(figure, axes)
    return figure if drawn else None


MARKS = {
    "save": ("|", "#0072B2", "checkpoint"),
    "signal": ("v", "#D55E00", "signal"),
    "roll_back": ("<", "#CC79A7", "rolled back"),
    "out_of_memory": ("s", "#E69F00", "out of memory"),
}


def read_events(folder: Path) -> dict[str, list[Json]]:
    """events.jsonl of every run that left one below the study's state folder, by the run's name."""
    found: dict[str, list[Json]] = {}
    state = Path(os.environ.get("ISOTONE_STATE", folder / "state"))
    for path in sorted(state.glob("*/events.jsonl")):
        events = []
        for line in read_lines(path):
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed run may be cut off
                events.append(json.loads(line))
        name = path.parent.name[:12]
        with contextlib.suppress(OSError, ValueError):
            name = str(json.loads((path.parent / "heartbeat.json").read_text(encoding="utf-8")).get("name") or name)
        found.setdefault(name, []).extend(events)
    return found


def _when(event: Json) -> float | None:
    try:
        return datetime.fromisoformat(str(event.get("time"))).timestamp()
    except ValueError:
        return None


def timeline(folder: Path) -> Any:
    """When each run trained, saved, was stopped and went on; None where no run left events.

    A bar is one process from its first to its last event.
    """
    rows: dict[str, list[tuple[float, Json]]] = {}
    for name, events in sorted(read_events(folder).items()):
        times = [(when, event) for event in events if (when := _when(event)) is not None]
        if times:
            rows[name] = sorted(times, key=lambda pair: pair[0])
    if not rows:
        return None
    start = min(times[0][0] for times in rows.values())
    figure, axes = canvas(height=0.9 + 0.16 * len(rows), width=COLUMN * 1.5)
    seen = set()
    for row, times in enumerate(rows.values()):
        spans: dict[Any, list[float]] = {}
        for when, event in times:
            spans.setdefault(event.get("pid"), []).append((when - start) / 60)
        for span in spans.values():
            axes.plot([min(span), max(span)], [row, row], color="#c4c4c4", linewidth=4, solid_capstyle="butt")
        for when, event in times:
            kind = event.get("event", "")
            if kind in MARKS:
                mark, colour, label = MARKS[kind]
                known = None if label in seen else label
                axes.plot((when - start) / 60, row, mark, color=colour, markersize=4, linestyle="", label=known)
                seen.add(label)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("minutes since the first run began")
    if seen:
        figure.legend(loc="outside lower center", ncols=4)
    return figure
