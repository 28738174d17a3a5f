"""One piece of the work of tokenising, as it travels to another process, and what is written of it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isotone.config.data import Pairs
from isotone.data.encoder import text_encoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH = 64  # texts per call of the tokenizer
COLUMNS = ["document", "start", "length", "bytes", "words"]


@dataclass(frozen=True)
class Part:
    """One piece of work, as it travels to another process."""

    documents: str
    group: int
    folder: str
    tokenizer: str
    bos: int | None  # only where it differs from EOS and documents start with it
    eos: int
    dtype: str
    score: str
    pairs: Pairs | None = None

    @property
    def stem(self) -> Path:
        """Path of its files without their suffix."""
        return Path(self.folder) / f"part-{self.group:06d}"


@functools.lru_cache(maxsize=1)
def warm_encoder(folder: str) -> Tokenizer:
    """One tokenizer per process: its cache of words is what makes it fast. The folder's name is its digest."""
    return text_encoder(Path(folder) / "tokenizer.json")
