"""Documents and vocabulary for the attack benchmarks, from held-out chapters."""

from __future__ import annotations

import numpy as np
from isotone.attacks.documents import Document, eligible_positions, unigram_counts
from isotone.attacks.vocabulary import Vocabulary, allowed_tokens, pieces_of


def documents_and_vocabulary(tokenizer, texts, test: int, search: int, window: int):
    """``(test documents, search documents, vocabulary)``; chapters shorter than the window are passed over."""
    found = []
    for number, text in enumerate(texts):
        ids = np.array(tokenizer.encode(text, add_special_tokens=False)[:window])
        if len(ids) == window:
            found.append(Document(f"chapter {number}", ids, eligible_positions(ids, [0])))
    pieces = pieces_of(tokenizer, len(tokenizer))
    chosen = found[test : test + search]
    vocabulary = Vocabulary(allowed_tokens(pieces, [0], "printable"), pieces, unigram_counts(chosen, len(tokenizer)))
    return found[:test], chosen, vocabulary
