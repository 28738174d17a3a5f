"""Settings of the attacks: one section for each `AttackSpec`, and what they share."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Any

from isotone.attacks.registry import SPECS
from isotone.attacks.shared import AttackDocuments
from isotone.schema import section, setting


@dataclass(frozen=True)
class _Sections:
    def of(self, attack: str) -> Any:
        """The settings of one attack."""
        return getattr(self, attack)


@dataclass(frozen=True)
class _Attacks(_Sections):
    run: list[str] = setting(
        ["hotflip", "uat", "query", "random"], "attacks of this study", items={"enum": list(SPECS)}, uniqueItems=True
    )
    shared: AttackDocuments = section(AttackDocuments, "documents, positions and vocabulary")
    transfer: list[str] = setting(
        [],
        "attacks whose flips or triggers are replayed on every other run",
        items={"enum": list(SPECS)},
        uniqueItems=True,
    )

    def longest_trigger(self) -> int:
        """Input positions that the longest trigger, of tokens or of vectors, takes in front of a text; 0 without any."""
        efforts = (SPECS[attack].trigger(self.of(attack)) for attack in self.run)
        lengths = [effort.length for effort in efforts if effort]
        return max(lengths + [SPECS[attack].front(self.of(attack)) for attack in self.run], default=0)


@dataclass(frozen=True)
class _AttackJob(_Sections):
    shared: AttackDocuments = section(AttackDocuments, "documents, positions and vocabulary")
    document_start: str = setting("bos", "token in front of every document", enum=["bos", "eos", "none"])


def _with_sections(base: type, name: str, description: str) -> type:
    """A settings class that also has one section for each attack."""
    fields = [(spec.name, spec.settings, section(spec.settings, spec.title)) for spec in SPECS.values()]
    namespace = {"__module__": __name__, "__doc__": description}
    return make_dataclass(name, fields, bases=(base,), frozen=True, namespace=namespace)


if TYPE_CHECKING:

    class Attacks(_Attacks):
        """Which attacks run, and with what budgets."""

        def __getattr__(self, attack: str) -> Any: ...

    class AttackJob(_AttackJob):
        """`scripts/attack.py --settings` and `scripts/transfer.py --settings`."""

        def __getattr__(self, attack: str) -> Any: ...

else:
    Attacks = _with_sections(_Attacks, "Attacks", "Which attacks run, and with what budgets.")
    AttackJob = _with_sections(
        _AttackJob,
        "AttackJob",
        "`scripts/attack.py --settings` and `scripts/transfer.py --settings`; what an attack does not use stays at its default.",
    )
