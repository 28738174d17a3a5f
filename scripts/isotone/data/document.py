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
    """

    name: str
    text: str
    messages: tuple[dict[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the normalised text: equal for texts that differ in case, form or spacing only."""
        return hashlib.sha256(normalise(self.text).encode()).hexdigest()

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
