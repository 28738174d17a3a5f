"""One look: column width, colours that colour-blind readers tell apart, no dates in the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from isotone.records import Json

COLUMN = 3.35  # inches: one column of a two-column page
PAGE = 6.9

# Okabe & Ito 2008: eight colours that all common forms of colour blindness keep apart.
COLOURS = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8F8F00"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
LINES: list[Any] = [
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (4, 1, 1, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (8, 2)),
    (0, (2, 2)),
    "-",
]

SETTINGS: dict[Any, Any] = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "legend.fontsize": 6.8,
    "xtick.labelsize": 6.8,
    "ytick.labelsize": 6.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.8,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 220,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "isotone",
}


def look(names: Sequence[str], name: str) -> dict[str, Any]:
    """Colour, marker and line of an arm; a control looks like its arm, hollow."""
    index = list(names).index(name.partition("~")[0]) % len(COLOURS)
    return {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": LINES[index]}


def canvas(rows: int = 1, columns: int = 1, *, width: float = COLUMN, height: float = 2.3, **options: Any) -> Any:
    """A figure and its axes in the common look."""
    plt.rcParams.update(SETTINGS)
    return plt.subplots(rows, columns, figsize=(width, height), **options)


def save(figure: Any, folder: Path, name: str) -> None:
    """Write NAME.pdf and NAME.png without dates, and close the figure."""
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")  # once is enough: it costs more than drawing
    figure.savefig(
        folder / f"{name}.pdf", metadata={"CreationDate": None, "Producer": "matplotlib", "Creator": "Isotone"}
    )
    figure.savefig(folder / f"{name}.png", metadata={"Software": "Isotone"})
    plt.close(figure)


def grid_of(count: int) -> tuple[int, int]:
    """Rows and columns for so many small panels."""
    columns = min(count, 2)
    return -(-count // columns), columns


def whiskers(number: Json) -> Any:
    """Lengths of the error bars below and above a number with an interval, as matplotlib wants them."""
    low, high = number["interval"] or [number["value"]] * 2
    return [[max(0.0, number["value"] - low)], [max(0.0, high - number["value"])]]


def shared_legend(figure: Any, grid: Any) -> None:
    """One legend below all panels; panels without data vanish."""
    handles: dict[str, Any] = {}
    for axes in np.asarray(grid).flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
        if not axes.has_data():
            axes.set_visible(False)
    letters = max(map(len, handles), default=1)
    columns = int(figure.get_figwidth() / (0.42 + 0.058 * letters))  # inches of a handle, and of a letter
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=max(1, min(columns, len(handles)))
    )
