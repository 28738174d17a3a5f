"""Random numbers that depend on what they are for, never on what ran before.

A stream is keyed by (seed, attack, document, restart, step): the composition of a
batch, a resumed job or another number of documents changes no draw.
"""

from __future__ import annotations

import hashlib

import numpy as np

from isotone.records import canonical_json


def stream(seed: int, attack: str, document: str, *, restart: int = 0, step: int = 0) -> np.random.Generator:
    """The generator of one (seed, attack, document, restart, step)."""
    name = canonical_json([seed, attack, document, restart, step]).encode()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(name).digest()[:16], "big")))
