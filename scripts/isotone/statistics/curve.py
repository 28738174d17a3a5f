"""A curve of controls: an outcome read off at a model's own clean loss.

Shape suffixes: M = models on the curve, N = documents.
"""

from __future__ import annotations

import numpy as np

from isotone.statistics.estimate import finite

FEWEST = 3  # models that make a curve


class OffCurve(ValueError):
    """The curve says nothing at this loss; the message says why."""


def interpolated(clean_MN: np.ndarray, outcome_MN: np.ndarray, target_N: np.ndarray) -> np.ndarray:
    """The outcome of a model of equal clean loss, per document, linear between the two nearest models.

    With mean losses C and mean outcomes Y of the models below and above the target's mean loss c, the curve
    gives ``Y0 + w (Y1 - Y0)`` with ``w = (c - C0) / (C1 - C0)``. What is returned per document is that value's
    linearisation: its mean over documents is the curve's value exactly, and its spread holds the uncertainty
    of the three mean losses too, so that every interval and test for paired documents applies to it.

    Args:
        clean_MN: clean loss of each model on each attacked text, nats per token.
        outcome_MN: the outcome of the same models on the same texts.
        target_N: clean loss of the model that is compared.

    Raises:
        OffCurve: fewer than three models, or a loss outside theirs; nothing is extrapolated.
    """
    clean, outcome = finite(clean_MN, "control curve"), finite(outcome_MN, "control curve")
    target = finite(target_N, "control curve")
    if len(clean) < FEWEST:
        raise OffCurve(f"the curve has {len(clean)} models and needs {FEWEST}")
    order = np.argsort(clean.mean(1), kind="stable")
    means_M, loss = clean.mean(1)[order], float(target.mean())
    if not means_M[0] <= loss <= means_M[-1]:
        raise OffCurve(
            f"its clean loss on the attacked text, {loss:.3f} nats per token, lies outside the curve "
            f"({means_M[0]:.3f} to {means_M[-1]:.3f})"
        )
    upper = max(1, int(np.searchsorted(means_M, loss)))
    below, above = order[upper - 1], order[upper]
    width = means_M[upper] - means_M[upper - 1]
    share = (loss - means_M[upper - 1]) / width if width > 0 else 0.0
    slope = float(outcome[above].mean() - outcome[below].mean()) / width if width > 0 else 0.0
    loss_N = clean[below] + share * (clean[above] - clean[below])
    return outcome[below] + share * (outcome[above] - outcome[below]) + slope * (target - loss_N)
