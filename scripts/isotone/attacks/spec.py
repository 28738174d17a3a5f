"""What an attack is: one `AttackSpec`, from which rules, settings, gates, paper and estimate follow.

Nothing here or in the module of an attack loads torch when it is imported: the workflow
reads specs to make its rules.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isotone.errors import ConfigurationError

if TYPE_CHECKING:
    from isotone.attacks.context import Context
    from isotone.attacks.documents import Document
    from isotone.attacks.search import Trace
    from isotone.attacks.settings import Attacks
    from isotone.records import Json

    Search = Callable[[Context, Sequence[Document]], dict[str, list[Trace]]]
    Rows = Callable[[Context, Sequence[Document]], dict[str, list[Json]]]


RESTART = "~restart"  # ends the names of forms that were run from a fresh start


@dataclass(frozen=True)
class Effort:
    """The budget of one search for a trigger.

    Attributes:
        length: trigger tokens.
        candidates: triggers scored exactly per iteration.
        batch: search documents per iteration.
        topk: above 0, GCG's draws from so many best tokens of every slot; 0: the best tokens themselves.
    """

    length: int
    restarts: int
    iterations: int
    candidates: int
    batch: int
    topk: int = 0


@dataclass(frozen=True)
class Cost:
    """Input tokens of one attack on one model."""

    forward: float
    backward: float = 0.0


def _never(settings: Any) -> None:
    return None


def _none(settings: Any) -> list[str]:
    return []


def _nothing(settings: Any) -> int:
    return 0


def _no_search(context: Context, documents: Sequence[Document]) -> dict[str, list[Trace]]:
    raise NotImplementedError("this attack has a universal form only: it gives `trigger`, not `search`")


@dataclass(frozen=True)
class AttackSpec:
    """All that the rest of Isotone knows of an attack. `settings` below stands for an instance of its settings class.

    Attributes:
        name: key under `attacks`, name of its rule and of its row files.
        title: what it is, for config/README.md.
        settings: its settings class (fields made with `setting`).
        search: from a target and documents of equal length to traces by variant.
        trigger: the budget of the universal search, or None where these settings attack each text by itself.
        variants: the forms that its rows hold, in order.
        prefers: the forms that may speak for it in comparisons, strongest first.
        restarted: forms that also run from a fresh start on a few documents, to judge convergence by.
        flips: tokens that it may change in a text, or put in front of it.
        cost: input tokens on one model, from the whole section `attacks`.
        sentence: what it is, for the paper.
        combines: attacks whose rows it is made of, instead of searching; they run on the same models.
        reads: other attacks whose settings it uses (a matched budget).
        beats: `(own form, attack, form)`: what it must damage at least as much as.
        guided: whether a gradient proposes its flips, so that predicted gains can be compared with exact ones.
        rows: instead of `search`, for an attack that measures its texts itself: rows by variant.
        on_pairs: whether it can attack the source of a pair, too; a universal form cannot.
        curve: whether its rows hold J after each flip, where it attacks each text by itself.
        front: input positions that it needs in front of a text, a trigger aside.
    """

    name: str
    title: str
    settings: type
    variants: Callable[[Any], list[str]]
    prefers: tuple[str, ...]
    flips: Callable[[Any], int]
    cost: Callable[[Attacks], Cost]
    sentence: Callable[[Any], str]
    search: Search = _no_search
    rows: Rows | None = None
    trigger: Callable[[Any], Effort | None] = _never
    restarted: Callable[[Any], list[str]] = _none
    combines: Callable[[Any], list[str]] = _none
    reads: tuple[str, ...] = ()
    beats: tuple[tuple[str, str, str], ...] = ()
    guided: bool = False
    on_pairs: bool = False
    curve: bool = True
    front: Callable[[Any], int] = _nothing

    def main(self, forms: Container[str]) -> str:
        """The form that speaks for the attack, of those that were run.

        Raises:
            ConfigurationError: if none of them may.
        """
        for form in self.prefers:
            if form in forms:
                return form
        raise ConfigurationError(
            f"attacks.{self.name} runs none of its forms ({', '.join(self.prefers)}). Switch one on, or take it out of attacks.run."
        )

    def primary(self, settings: Any) -> str:
        """The form that speaks for the attack under these settings."""
        return self.main(self.variants(settings))

    def universal(self, settings: Any) -> bool:
        """Whether it searches one trigger for all texts."""
        return self.trigger(settings) is not None
