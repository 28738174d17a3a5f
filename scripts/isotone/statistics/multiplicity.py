"""Adjusting p values for how many were looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

METHODS = ("bonferroni", "holm", "bh", "by")


def adjust(p_values: Sequence[float], method: str) -> list[float]:
    """Adjusted p values, in the order given.

    Args:
        method: ``bonferroni`` and ``holm`` bound the chance of any false claim;
            ``bh`` and ``by`` bound the share of false claims (``by`` under any dependence).

    Raises:
        ValueError: unknown method, or a p outside [0, 1].

    Source: Holm 1979; Benjamini & Hochberg 1995; Benjamini & Yekutieli 2001.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if method not in METHODS:
        raise ValueError(f"unknown adjustment {method!r}; known: {', '.join(METHODS)}")
    if not p.size:
        return []
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p values lie between 0 and 1")
    if method in ("bh", "by"):
        return [float(value) for value in stats.false_discovery_control(p, method=method)]
    if method == "bonferroni":
        return [float(value) for value in np.minimum(1.0, p * p.size)]
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, stepped)
    return [float(value) for value in adjusted]
