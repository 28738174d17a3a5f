"""What Isotone knows of each architecture family: norm, feed-forward net, scopes, and what a certificate can say."""

from __future__ import annotations

import argparse

from isotone.models.families import ROWS
from isotone.models.family import Family

HEADER = ("family", "norm", "feed-forward", "activation", "scopes", "lift", "best certificate")


def options(parser: argparse.ArgumentParser) -> None:
    """No options: the table is short."""


def norm_of(family: Family) -> str:
    """The norms of a family in words."""
    words = "LayerNorm" if family.centres else "RMSNorm"
    words += ", gain 1 + w" if family.gain_offset else ""
    if not family.norm:
        return f"{words} behind, none in front"
    words += ", in front and behind" if family.norm_behind else ""
    return words + (", shared with parallel attention" if family.beside else "")


def net_of(family: Family) -> str:
    """The feed-forward net of a family in words."""
    fused = any("[" in path for path in family.roles.values())
    kind = "gated" if family.gated else "plain"
    return kind + (", experts" if family.routed else ", fused" if fused else "")


def activation_of(family: Family) -> str:
    """Where the activation of a family is named."""
    return f"always {family.fixed_activation}" if family.fixed_activation else family.activation_key


def lift_of(family: Family) -> str:
    """How weights can become non-negative without changing the function."""
    if family.centres:
        return "yes"
    return "after rotate_center" if family.name in ("llama", "mistral", "qwen2") else "no"


def certificate_of(family: Family) -> str:
    """The best that a certificate can say of an arm of this family."""
    if family.gated:
        return "conditional: a product of two branches is not monotone" + (
            "; a router chooses" if family.routed else ""
        )
    if family.centres:
        return "certified with cone strict and a monotone activation; elementwise it is vacuous"
    return "certified with a monotone activation"


def table() -> list[tuple[str, ...]]:
    """The table's rows, header first."""
    rows = [
        (f.name, norm_of(f), net_of(f), activation_of(f), ", ".join(f.scopes), lift_of(f), certificate_of(f))
        for f in ROWS
    ]
    return [HEADER, *rows]


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    rows = table()
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
