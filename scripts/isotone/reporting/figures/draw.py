"""Drawing of every figure that a study has data for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from isotone.records import Json, whole_folder
from isotone.reporting.figures import robustness, scaling, training
from isotone.reporting.figures.captions import captions
from isotone.reporting.figures.style import save


def painters(document: Json, folder: Path) -> dict[str, Callable[[], Any]]:
    """Figure name to the function that draws it; it gives None where the study has no data for it."""
    results = document["results"]
    found: dict[str, Callable[[], Any]] = {
        "excess": lambda: robustness.excess(results),
        "quality_robustness": lambda: robustness.quality_against_robustness(results),
        "scaling": lambda: scaling.scaling(results),
        "training": lambda: training.training_curves(results, folder),
        "damage_flips": lambda: robustness.damage_by_flips(results),
        "damage_compute": lambda: robustness.damage_by_compute(results),
        "thresholds": lambda: robustness.thresholds(results),
        "flips_needed": lambda: robustness.flips_needed(results),
        "distance": lambda: robustness.distance(results),
        "order": lambda: training.order_by_depth(results),
        "timeline": lambda: training.timeline(folder),
    }
    for attack in results["transfer"]:
        found[f"transfer_{attack}"] = lambda attack=attack: robustness.transfer(results, attack)  # type: ignore[misc]
    return found


def write_figures(out: Path, document: Json, folder: Path, say: Callable[[str], None] = lambda text: None) -> list[str]:
    """Write every figure that has data as PDF and PNG into a new folder; returns their names.

    Args:
        folder: results/<study>: histories and events are read from it.
    """
    written = []
    paint = painters(document, folder)
    with whole_folder(out) as part:
        for name, _, _ in captions(document):
            drawn = paint[name]()
            if drawn is None:
                continue
            say(f"figure {name}")
            save(drawn, part, name)
            written.append(name)
    return written
