"""What tables and figures agree on: which form of an attack speaks for it, and the order of arms."""

from __future__ import annotations

from collections.abc import Iterable

from isotone.attacks.registry import SPECS
from isotone.records import Json


def main_form(forms: Json, attack: str) -> str:
    """The form that speaks for an attack, of those that were run."""
    return SPECS[attack].main(forms)


def in_order(results: Json, names: Iterable[str]) -> list[str]:
    """The reference first, then the arms by name, each followed by its controls."""
    arms = results["arms"]
    return sorted(names, key=lambda name: (arms.index(name.partition("~")[0]), name))
