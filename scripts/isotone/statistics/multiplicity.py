"""Adjusting p values for how many were looked at: scipy and statsmodels do it."""

from __future__ import annotations

from collections.abc import Sequence

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
    if method not in METHODS:
        raise ValueError(f"unknown adjustment {method!r}; known: {', '.join(METHODS)}")
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError("p values lie between 0 and 1")
    if not len(p_values):
        return []
    if method in ("bh", "by"):
        from scipy.stats import false_discovery_control

        return [float(p) for p in false_discovery_control(list(p_values), method=method)]
    from statsmodels.stats.multitest import multipletests  # collects garbage in each call: not for thousands of them

    return [float(p) for p in multipletests(list(p_values), method=method)[1]]
