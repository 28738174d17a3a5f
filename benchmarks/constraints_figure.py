"""Draw docs/constraints.svg: what centring forbids, what monotone activations look like, why V crawls.

    python benchmarks/constraints_figure.py

Three panels, from the formulas that the library uses. The file is the same on every machine with the same matplotlib.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from isotone.constraints.activations import isotonic_floor
from isotone.constraints.maps import ELEMENTS
from isotone.models.activations import SHAPES
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from transformers.activations import ACT2FN

TARGET = Path(__file__).resolve().parent.parent / "docs/constraints.svg"
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"]


def centring(axes: Axes) -> None:
    """d = 2: a centring norm lets through two points, an RMSNorm a whole circle."""
    angle = np.linspace(0, 2 * np.pi, 400)
    radius = np.sqrt(2)
    axes.plot(radius * np.cos(angle), radius * np.sin(angle), color=COLOURS[4], lw=1, label="RMSNorm output")
    axes.plot([-1.7, 1.7], [1.7, -1.7], color=COLOURS[0], lw=1, ls=":")
    axes.plot([-1, 1], [1, -1], "o", color=COLOURS[0], label="LayerNorm output")
    axes.fill_between([-1, 1.7], 1, 1.7, color=COLOURS[1], alpha=0.15, lw=0, label="what lies above one of them")
    axes.set(aspect="equal", xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), xlabel="$x_1$", ylabel="$x_2$")
    axes.set_title("No two LayerNorm outputs are comparable")
    axes.legend(loc="lower left", fontsize=7)


def activations(axes: Axes) -> None:
    """GELU and its non-decreasing versions, with the floor for z ~ N(-0.5, 1)."""
    x = torch.linspace(-3, 1, 401, dtype=torch.float64)
    gelu, turn = ACT2FN["gelu"], SHAPES["gelu"].turn
    z = torch.from_numpy(np.random.default_rng(0).normal(-0.5, 1, 20_000))
    floor = isotonic_floor("gelu", z)
    curves = {
        "GELU": gelu(x),
        f"clamp, c = {turn:.3f}": gelu(x.clamp_min(turn)),
        f"isotonic, c = {floor:.3f}": gelu(x.clamp_min(floor)),
        "ReLU": x.clamp_min(0),
    }
    for colour, (name, values) in zip(COLOURS, curves.items(), strict=False):
        axes.plot(x, values, color=colour, lw=1.3, label=name)
    axes.set(xlabel="pre-activation z", ylabel="s(z)", ylim=(-0.2, 0.5))
    axes.set_title("Activations that do not fall")
    axes.legend(loc="upper left", fontsize=7)


def slopes(axes: Axes) -> None:
    """dW/dV against W: the factor by which a step on V is smaller than a step on W."""
    weight = torch.logspace(-5, 1, 200, dtype=torch.float64)
    for colour, name in zip(COLOURS, ["softplus", "exp", "square", "project"], strict=False):
        element = ELEMENTS[name]
        axes.loglog(weight, element.slope(element.inverse(weight)), color=colour, lw=1.3, label=name)
    axes.axvline(0.02, color=COLOURS[4], lw=0.8, ls=":")
    axes.text(0.022, 2e-5, "a usual weight", fontsize=7)
    axes.set(xlabel="W", ylabel="dW / dV", ylim=(1e-5, 10))
    axes.set_title("How far a step on V reaches")
    axes.legend(loc="upper left", fontsize=7)


def main() -> None:
    matplotlib.rcParams |= {"svg.hashsalt": "isotone", "svg.fonttype": "none", "font.size": 8}
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
    for axis, draw in zip(axes, (centring, activations, slopes), strict=True):
        draw(axis)
    figure.savefig(TARGET, metadata={"Date": None})


if __name__ == "__main__":
    main()
