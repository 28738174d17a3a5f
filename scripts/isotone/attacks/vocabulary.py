"""Which tokens an attack may write, and which flips survive as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isotone.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """Replacement tokens, the text of every token, and how often search texts use each.

    Attributes:
        allowed: ids that an attack may write, ascending.
        pieces: text of each id; "" for embedding rows that are no token.
        counts: occurrences of each id in the search documents.
    """

    allowed: np.ndarray
    pieces: list[str]
    counts: np.ndarray

    def unigram_nll(self) -> np.ndarray:
        """Surprise of each id without any context, nats: add-one counts of the search documents."""
        return -np.log((self.counts + 1) / (self.counts + 1).sum())


def pieces_of(tokenizer: Tokenizer, rows: int) -> list[str]:
    """Text of each of ``rows`` embedding rows; rows that are no token are padding: ""."""
    known = set(tokenizer.get_vocab().values())
    return [str(tokenizer.decode([index])) if index in known else "" for index in range(rows)]


def allowed_tokens(pieces: list[str], special: list[int], kind: str) -> np.ndarray:
    """Ids of real, printable tokens.

    Args:
        kind: ``printable``, or ``ascii`` for ASCII only.

    Raises:
        ConfigurationError: if fewer than two tokens remain.
    """
    closed = set(special)
    keep = [
        index
        for index, piece in enumerate(pieces)
        if piece
        and index not in closed
        and piece.isprintable()
        and "�" not in piece
        and (kind != "ascii" or piece.isascii())
    ]
    if len(keep) < 2:
        raise ConfigurationError(
            f'attacks.shared.vocabulary is "{kind}", which leaves {len(keep)} of {len(pieces)} tokens. '
            "Choose printable, or another tokenizer."
        )
    return np.array(keep, np.int64)


def survives(tokenizer: Tokenizer, ids: list[int]) -> bool:
    """Whether ``ids`` come back from decoding and encoding: the threat model `text`."""
    return list(tokenizer.encode(str(tokenizer.decode(ids)), add_special_tokens=False)) == list(ids)
