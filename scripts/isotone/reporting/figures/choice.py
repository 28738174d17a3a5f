"""Which form of an attack a figure or an example shows."""

from __future__ import annotations

from isotone.records import Json
from isotone.reporting.expected import PRIMARY_VARIANT


def main_form(forms: Json, attack: str) -> str:
    """The form of the primary comparison where it was run, else the last one."""
    wanted = PRIMARY_VARIANT.get(attack, "")
    return wanted if wanted in forms else next(reversed(forms))
