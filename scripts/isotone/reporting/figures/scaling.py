"""Loss and damage against the tokens of recovery, for arms that differ in nothing else."""

from __future__ import annotations

from typing import Any

from isotone.records import Json, canonical_json
from isotone.reporting.figures.choice import main_form
from isotone.reporting.figures.style import COLUMN, PAGE, canvas, grid_of, look, shared_legend, whiskers

BUDGET = ("epochs", "max_steps")  # settings of training that say how long, not how


def tokens_of(results: Json, arm: str) -> float:
    """Tokens that one run of an arm was trained on, mean over its seeds."""
    runs = [run["tokens"] for key, run in results["training"].items() if key.rpartition("/")[0] == arm]
    return float(sum(runs) / len(runs))


def ladders(results: Json) -> list[list[str]]:
    """Arms with the same constraint and training but for the budget, fewest tokens first; empty if no budgets differ.

    An arm without such relatives is a ladder of one, so that the reference can stand beside the others.
    """
    found: dict[str, list[str]] = {}
    for arm in results["arms"]:
        settings = results["settings"]["arms"][arm]
        same = {key: value for key, value in settings["training"].items() if key not in BUDGET}
        found.setdefault(canonical_json([settings["constraint"], same]), []).append(arm)
    groups = [sorted(group, key=lambda arm: tokens_of(results, arm)) for group in found.values()]
    climbs = any(tokens_of(results, group[0]) < tokens_of(results, group[-1]) for group in groups)
    return groups if climbs else []


def _panel(axes: Any, results: Json, groups: list[list[str]], numbers: dict[str, Json]) -> None:
    for group in groups:
        style = look(results["arms"], group[0])
        label = group[0] if len(group) == 1 else f"{group[0]} ... {group[-1]}"
        known = [arm for arm in group if arm in numbers]
        for arm in known:
            point = numbers[arm]
            axes.errorbar(
                tokens_of(results, arm), point["value"], yerr=whiskers(point), fmt="none", ecolor=style["color"], capsize=2, linewidth=0.8,
            )  # fmt: skip
        axes.plot(
            [tokens_of(results, arm) for arm in known], [numbers[arm]["value"] for arm in known], label=label, **style
        )
        for kind in sorted({name.partition("~")[2] for name in numbers if "~" in name}):
            controls = [arm for arm in known if f"{arm}~{kind}" in numbers]
            axes.plot(
                [tokens_of(results, arm) for arm in controls],
                [numbers[f"{arm}~{kind}"]["value"] for arm in controls],
                label=f"{label}, {kind} controls" if controls else None,
                markerfacecolor="white",
                alpha=0.6,
                **style,
            )
    axes.set_xscale("log")
    axes.set_xlabel("tokens of recovery")


def scaling(results: Json) -> Any:
    """Clean loss, and J under each attack, against tokens; None unless arms differ only in their budget."""
    groups = ladders(results)
    if not groups:
        return None
    protocol = results["settings"]["perplexity"]["protocols"][0]
    attacks = list(results["settings"]["attacks"]["run"])
    rows, columns = grid_of(1 + len(attacks))
    figure, grid = canvas(rows, columns, width=COLUMN if columns == 1 else PAGE, height=0.7 + 2.0 * rows, squeeze=False)
    losses, *damages = list(grid.flat)
    quality = {name: entry[protocol]["nats_per_token"] for name, entry in results["quality"].items()}
    _panel(losses, results, groups, quality)
    losses.set_ylabel(f"clean loss, nats/token ({protocol})")
    for axes, attack in zip(damages, attacks, strict=False):
        forms = {name: entry[attack] for name, entry in results["damage"].items() if attack in entry}
        _panel(axes, results, groups, {name: entry[main_form(entry, attack)]["J"] for name, entry in forms.items()})
        axes.set_title(attack)
        axes.set_ylabel("J, nats/token")
    shared_legend(figure, grid)
    return figure
