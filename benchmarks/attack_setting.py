"""Documents and vocabulary for the attack benchmarks, from held-out chapters."""

from __future__ import annotations

import numpy as np
from isotone.attacks.documents import Document, eligible_positions, unigram_counts
from isotone.attacks.vocabulary import Vocabulary, allowed_tokens, pieces_of


def documents_and_vocabulary(tokenizer, texts, test: int, search: int, window: int):
    """``(test documents, search documents, vocabulary)``, drawn at random; too short chapters are passed over.

    At random, as a study's splits are: in the order of the book the search documents would be of other
    subjects than the held-out ones, and a trigger would be asked to generalise from kings to apostles.
    """
    found = []
    for number, text in enumerate(texts):
        ids = np.array(tokenizer.encode(text, add_special_tokens=False)[:window])
        if len(ids) == window:
            found.append(Document(f"chapter {number}", ids, eligible_positions(ids, [0])))
    pieces = pieces_of(tokenizer, len(tokenizer))
    found = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    chosen = found[test : test + search]
    vocabulary = Vocabulary(allowed_tokens(pieces, [0], "printable"), pieces, unigram_counts(chosen, len(tokenizer)))
    return found[:test], chosen, vocabulary
