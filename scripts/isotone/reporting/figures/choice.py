"""What tables and figures agree on: which form of an attack speaks for it, and the order of arms."""

from __future__ import annotations

from collections.abc import Iterable

from isotone.records import Json
from isotone.reporting.evidence.expected import PRIMARY_VARIANT


def main_form(forms: Json, attack: str) -> str:
    """The form of the primary comparison where it was run, else the last one."""
    wanted = PRIMARY_VARIANT.get(attack, "")
    return wanted if wanted in forms else next(reversed(forms))


def in_order(results: Json, names: Iterable[str]) -> list[str]:
    """The reference first, then the arms by name, each followed by its nulls."""
    arms = results["arms"]
    return sorted(names, key=lambda name: (arms.index(name.partition("~")[0]), name))
