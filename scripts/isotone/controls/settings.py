"""Settings of the controls."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.attacks.registry import SPECS
from isotone.schema import setting

CONTROLS = ["tempered", "noised", "early"]


@dataclass(frozen=True)
class Controls:
    """Controls of equal quality: what robustness a worse model has for free."""

    kinds: list[str] = setting(
        ["tempered"], "which controls are made for each constrained arm", items={"enum": CONTROLS}, uniqueItems=True
    )
    revisions: list[str] = setting(
        [],
        "kind `early`, model.source `hub`: revisions of the model before its pretraining had ended, such as [step64000, step128000]; points of the curve",
        items={"minLength": 1, "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)"},
        uniqueItems=True,
    )
    attacks: list[str] = setting(
        ["hotflip"], "attacks that run on the controls", items={"enum": list(SPECS)}, uniqueItems=True
    )
    seed: int = setting(0, "noise of kind `noised`", minimum=0)
    tolerance: float = setting(1e-3, "how closely the clean loss is matched, nats per token", exclusiveMinimum=0)
    match: str = setting(
        "attacked",
        "the text on which it is matched: the attacked documents, unchanged, or validation blocks (a sweep must not read the former)",
        enum=["attacked", "validation"],
    )
