"""A document on its way into the study, and what went wrong with those that stayed behind."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Document:
    """One text, before it belongs to a split.

    Attributes:
        name: where it stands in its source, such as ``Genesis 1`` or ``part-0.jsonl:17``.
        text: the text itself; of a chat, the contents of its messages, one per line.
        messages: chat turns ``{"role", "content"}``; empty for plain text.
        source: of a pair, the text that ``text`` is made from; None for plain text.
        group: documents of one group (the verses of a chapter) go into one split; "" for none.
    """

    name: str
    text: str
    messages: tuple[dict[str, str], ...] = ()
    source: str | None = None
    group: str = ""

    @property
    def sides(self) -> tuple[str, ...]:
        """Its texts: of a pair, target and source."""
        return (self.text,) if self.source is None else (self.text, self.source)

    @property
    def digest(self) -> str:
        """SHA-256 of the normalised text (of both, of a pair): equal for what differs in case, form or spacing only."""
        return hashlib.sha256("\0".join(normalise(side) for side in self.sides).encode()).hexdigest()

    @property
    def keys(self) -> list[bytes]:
        """What no other document may share: 16 bytes for each of its texts."""
        found = [hashlib.sha256(f"{side}\0{normalise(text)}".encode()) for side, text in enumerate(self.sides)]
        return [bytes.fromhex(self.digest)[:16]] if self.source is None else [key.digest()[:16] for key in found]

    @property
    def place(self) -> str:
        """The digest that decides on its split: its group's, or its own."""
        return hashlib.sha256(self.group.encode()).hexdigest() if self.group else self.digest

    @property
    def messages_json(self) -> str:
        """The chat as JSON; empty for plain text."""
        return json.dumps(list(self.messages), ensure_ascii=False, sort_keys=True) if self.messages else ""


def normalise(text: str) -> str:
    """Text without what makes exact copies look different: Unicode form, case and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def from_messages(name: str, value: Any) -> Document | None:
    """A chat as a document; None unless it is a list of turns with a role and a text."""
    if not isinstance(value, (list, tuple)) or not value:
        return None
    turns = []
    for turn in value:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            return None
        if not isinstance(turn.get("content"), str):
            return None
        turns.append({"role": turn["role"], "content": turn["content"]})
    return Document(name, "\n".join(turn["content"] for turn in turns), tuple(turns))


@dataclass
class Troubles:
    """Counts of bad input, with an example of each kind for the report."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, where: str) -> None:
        """Count one piece of bad input of ``kind`` (``empty``, ``invalid_utf8`` ...)."""
        self.counts[kind] += 1
        self.examples.setdefault(kind, where)

    def result(self) -> dict[str, Any]:
        """Plain data for a marker, in a fixed order."""
        return {kind: {"count": self.counts[kind], "first": self.examples[kind]} for kind in sorted(self.counts)}

    def sentence(self) -> str:
        """The counts in words; empty if nothing went wrong."""
        return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(self.counts.items()))
