"""Figures on damage: excess, quality against robustness, budgets, thresholds, distance, transfer."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from isotone.records import Json
from isotone.reporting.analysis.outcomes import CLAIMED
from isotone.reporting.analysis.verdicts import UNEQUAL
from isotone.reporting.figures.choice import in_order, main_form
from isotone.reporting.figures.style import COLUMN, PAGE, canvas, grid_of, look, shared_legend, whiskers


def excess(results: Json) -> Any:
    """Both outcomes of the claim, one line per arm, attack and control."""
    cells = results["primary"]
    if not cells:
        return None
    report = results["settings"]["report"]
    figure, grid = canvas(1, len(CLAIMED), width=PAGE, height=0.8 + 0.2 * len(cells), squeeze=False)
    for axes, outcome in zip(grid.flat, CLAIMED, strict=True):
        axes.axvspan(-report[outcome.margin], report[outcome.margin], color="#eeeeee", zorder=0)
        axes.axvline(0, color="#555555", linewidth=0.8)
        for row, cell in enumerate(cells):
            style, number = look(results["arms"], cell["arm"]), cell["outcomes"][outcome.column]["difference"]
            marker = "x" if cell["verdict"] == UNEQUAL else style["marker"]
            axes.errorbar(
                number["value"], row, xerr=whiskers(number), fmt=marker, color=style["color"], capsize=2, linewidth=1
            )
        axes.set_ylim(len(cells) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(outcome.title)
    names = [f"{cell['arm']}, {cell['attack']}: {cell['control']}" for cell in cells]
    grid.flat[0].set_yticks(range(len(cells)), names)
    for axes in grid.flat[1:]:
        axes.set_yticks(range(len(cells)), [""] * len(cells))
    return figure


def quality_against_robustness(results: Json) -> Any:
    """Clean loss against damage; controls of equal quality are hollow."""
    arms = results["arms"]
    protocol = results["settings"]["perplexity"]["protocols"][0]
    attacks = list(results["settings"]["attacks"]["run"])
    rows, columns = grid_of(len(attacks))
    figure, grid = canvas(rows, columns, width=COLUMN if columns == 1 else PAGE, height=0.5 + 2.0 * rows, squeeze=False)
    for axes, attack in zip(grid.flat, attacks, strict=False):
        for name in in_order(results, results["damage"]):
            forms = results["damage"][name]
            if attack not in forms:
                continue
            J, nats = (
                forms[attack][main_form(forms[attack], attack)]["J"],
                results["quality"][name][protocol]["nats_per_token"],
            )
            style, control = look(arms, name), "~" in name
            axes.errorbar(
                nats["value"], J["value"], yerr=whiskers(J), fmt=style["marker"], color=style["color"], capsize=2, linewidth=0.8,
                markerfacecolor="white" if control else style["color"], label=name,
            )  # fmt: skip
        axes.set_title(f"{attack}, {main_form(next(iter(results['damage'].values()))[attack], attack)}")
        axes.set_xlabel(f"clean loss, nats/token ({protocol})")
        axes.set_ylabel("J, nats/token")
    shared_legend(figure, grid)
    return figure


def _curves(results: Json, horizontal: str, label: str, key: str = "curve", *, log: bool = False) -> Any:
    arms = results["arms"]
    attacks = [
        name
        for name in results["settings"]["attacks"]["run"]
        if any(_drawable(_curve(results, arm, name, key), horizontal) for arm in arms)
    ]
    if not attacks:
        return None
    rows, columns = grid_of(len(attacks))
    figure, grid = canvas(rows, columns, width=COLUMN if columns == 1 else PAGE, height=0.5 + 1.9 * rows, squeeze=False)
    for axes, attack in zip(grid.flat, attacks, strict=False):
        for name in in_order(results, results["damage"]):
            curve = _curve(results, name, attack, key)
            if curve is None or not _drawable(curve, horizontal):
                continue
            style = look(arms, name)
            x = [point[horizontal] for point in curve]
            y = [point["J"]["value"] for point in curve]
            bounds = np.array([point["J"]["interval"] or [point["J"]["value"]] * 2 for point in curve])
            control = "~" in name
            axes.plot(
                x,
                y,
                label=name,
                markerfacecolor="white" if control else style["color"],
                alpha=0.6 if control else 1.0,
                **style,
            )
            if not control:
                axes.fill_between(x, bounds[:, 0], bounds[:, 1], color=style["color"], alpha=0.10, linewidth=0)
        if log:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_title(attack)
        axes.set_xlabel(label)
        axes.set_ylabel("J, nats/token")
    shared_legend(figure, grid)
    return figure


def _drawable(curve: list[Json] | None, horizontal: str) -> bool:
    """Whether the budget grows along the curve; the best of N draws has spent all of it at once."""
    return curve is not None and all(one[horizontal] < two[horizontal] for one, two in itertools.pairwise(curve))


def _curve(results: Json, name: str, attack: str, key: str) -> list[Json] | None:
    forms = results["damage"].get(name, {}).get(attack)
    curve = forms[main_form(forms, attack)].get(key) if forms else None
    return curve if curve and len(curve) > 2 else None  # a trigger has no path of single changes


def damage_by_flips(results: Json) -> Any:
    """J against the number of changed tokens."""
    return _curves(results, "flips", "changed tokens")


def damage_by_compute(results: Json) -> Any:
    """J against the forward passes that the search had spent on a document."""
    return _curves(results, "passes", "forward passes per document, fewer than", "compute", log=True)


def thresholds(results: Json) -> Any:
    """Share of documents above each threshold."""
    arms = results["arms"]
    attacks = list(results["settings"]["attacks"]["run"])
    rows, columns = grid_of(len(attacks))
    figure, grid = canvas(rows, columns, width=COLUMN if columns == 1 else PAGE, height=0.5 + 1.9 * rows, squeeze=False)
    for axes, attack in zip(grid.flat, attacks, strict=False):
        for name in arms:
            forms = results["damage"][name][attack]
            shares = forms[main_form(forms, attack)]["success"]
            points = sorted((float(key), np.mean(share["per_seed"])) for key, share in shares.items())
            axes.plot(*zip(*points, strict=True), label=name, **look(arms, name))
        axes.set_xscale("log")
        axes.set_xticks([threshold for threshold, _ in points], [f"{threshold:g}" for threshold, _ in points])
        axes.minorticks_off()
        axes.set_ylim(-0.03, 1.03)
        axes.set_title(attack)
        axes.set_xlabel("threshold on J, nats/token")
        axes.set_ylabel("share of documents above")
    shared_legend(figure, grid)
    return figure


def flips_needed(results: Json) -> Any:
    """Kaplan-Meier: share of documents that still stand after so many flips."""
    arms = results["arms"]
    attacks = [
        name
        for name in results["settings"]["attacks"]["run"]
        if all(_form(results, arm, name).get("flips_needed") for arm in arms)
    ]
    if not attacks:
        return None
    rows, columns = grid_of(len(attacks))
    figure, grid = canvas(rows, columns, width=COLUMN if columns == 1 else PAGE, height=0.5 + 1.9 * rows, squeeze=False)
    for axes, attack in zip(grid.flat, attacks, strict=False):
        for name in arms:
            entry, style = _form(results, name, attack)["flips_needed"], look(arms, name)
            flips = [*entry["flips"], entry["flips"][-1] + 0.5]  # so that the last step shows
            standing, low, high = ([*entry[key], entry[key][-1]] for key in ("standing", "low", "high"))
            colour = style["color"]
            axes.step(flips, standing, where="post", label=name, color=colour, linestyle=style["linestyle"])
            axes.fill_between(flips, low, high, step="post", color=colour, alpha=0.08, linewidth=0)
        axes.set_ylim(-0.03, 1.03)
        axes.set_title(f"{attack}, J > {entry['threshold']:g}")
        axes.set_xlabel("changed tokens")
        axes.set_ylabel("documents still standing")
    shared_legend(figure, grid)
    return figure


def _form(results: Json, name: str, attack: str) -> Json:
    forms = results["damage"][name][attack]
    return forms[main_form(forms, attack)]


def distance(results: Json) -> Any:
    """J by distance behind the change."""
    arms = results["arms"]
    attacks = [
        name
        for name in results["settings"]["attacks"]["run"]
        if all(_form(results, arm, name)["distance"] for arm in arms)
    ]
    if not attacks:
        return None
    rows, columns = grid_of(len(attacks))
    figure, grid = canvas(rows, columns, width=COLUMN if columns == 1 else PAGE, height=0.5 + 1.9 * rows, squeeze=False)
    for axes, attack in zip(grid.flat, attacks, strict=False):
        for name in arms:
            spans = _form(results, name, attack)["distance"]
            axes.plot(
                [max(1, span["lo"]) for span in spans], [span["J"] for span in spans], label=name, **look(arms, name)
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_yscale("symlog", linthresh=0.1)  # the next token may lose a hundred times what the tenth loses
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_title(attack)
        axes.set_xlabel("tokens behind the change")
        axes.set_ylabel("J, nats/token")
        axes.axhline(0, color="#555555", linewidth=0.6)
    shared_legend(figure, grid)
    return figure


def transfer(results: Json, attack: str) -> Any:
    """Heat map: made on (rows), replayed on (columns)."""
    matrix = results["transfer"][attack]["matrix"]
    names = in_order(results, matrix)
    values = np.array([[matrix[source][target]["value"] for target in names] for source in names])
    wide = len(names) > 5
    figure, axes = canvas(width=PAGE if wide else COLUMN, height=0.9 + (0.3 if wide else 0.42) * len(names))
    image = axes.imshow(values, cmap="cividis", aspect="auto", vmin=min(0.0, values.min()))
    middle = (min(0.0, values.min()) + values.max()) / 2
    for row in range(len(names)):
        for column in range(len(names)):
            shade = "white" if values[row, column] < middle else "black"
            axes.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", color=shade, fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)
    axes.set_xlabel("replayed on")
    axes.set_ylabel("made on")
    figure.colorbar(image, ax=axes, label="J, nats/token")
    return figure
