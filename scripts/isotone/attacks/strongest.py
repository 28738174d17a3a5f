"""The strongest of an ensemble: per document, the attack that did most damage speaks for all of them.

Nothing is searched anew. Rows of the members are compared by J, which each of them measured
afresh, and the best is copied; what all of them spent together is its cost. The members change
as many tokens as each other, or the comparison would be of budgets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isotone.attacks.spec import AttackSpec, Cost
from isotone.errors import ConfigurationError
from isotone.schema import setting

if TYPE_CHECKING:
    from isotone.records import Json

FORM = "best"


@dataclass(frozen=True)
class Strongest:
    """The best of several attacks per document."""

    members: list[str] = setting(
        ["hotflip", "gcg", "query"],
        "attacks whose rows are compared; each has to run too",
        items={"minLength": 1},
        minItems=1,
        uniqueItems=True,
    )


def strongest(rows_by_attack: Mapping[str, Sequence[Json]]) -> dict[str, Json]:
    """The row with the highest J of each document.

    Args:
        rows_by_attack: rows of schema ``attack/1`` of each member, all their forms; fresh starts are left out.

    Returns:
        Document to row: a copy of the best one, called attack ``strongest``, form ``best``, with ``of``, the member
        and form that it comes from, and the ledger of all members together.

    Raises:
        ConfigurationError: if two members attacked other documents.
    """
    forms: dict[tuple[str, str], dict[str, Json]] = {}
    for attack, rows in rows_by_attack.items():
        for row in rows:
            if "~" not in row["variant"]:
                forms.setdefault((attack, row["variant"]), {})[row["document"]] = row
    (first, expected), *others = forms.items()
    for form, found in others:
        if found.keys() != expected.keys():
            odd = sorted(found.keys() ^ expected.keys())[0]
            raise ConfigurationError(
                f'{" ".join(form)} and {" ".join(first)} were measured on different documents ("{odd}" is in one only). '
                "Delete the older row file and run its step again."
            )
    result = {}
    for document in expected:
        ranked = sorted(forms, key=lambda form: -forms[form][document]["J"])
        best = forms[ranked[0]][document]
        ledgers = [rows[document]["ledger"] for rows in forms.values()]
        result[document] = {
            **{key: value for key, value in best.items() if key not in ("search", "compute")},
            "attack": "strongest",
            "variant": FORM,
            "of": {"attack": ranked[0][0], "variant": ranked[0][1]},
            "ledger": {key: sum(ledger[key] for ledger in ledgers) for key in best["ledger"]},
        }
    return result


SPEC = AttackSpec(
    name="strongest",
    title="the best of several attacks per document",
    settings=Strongest,
    combines=lambda settings: settings.members,
    variants=lambda settings: [FORM],
    prefers=(FORM,),
    flips=lambda settings: 1,
    cost=lambda attacks: Cost(0.0),
    sentence=lambda settings: f"the strongest of {', '.join(settings.members)} for each document",
)
