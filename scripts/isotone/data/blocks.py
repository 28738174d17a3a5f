"""Packed text: a memory-mapped stream of tokens, cut into blocks without padding.

Documents stand one after the other, each as [BOS if distinct] text EOS. Block i
holds tokens ``iT .. iT + T``: it predicts T targets, and the next block begins
with the last of them, so that no target is lost and no position is wasted.
"""

# Shape suffixes: B = blocks, T = tokens per block.

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isotone.data.batch import UNSCORED, Batch
from isotone.errors import ConfigurationError, InputOutputError
from isotone.records import read_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["UNSCORED", "Blocks", "TokenSplit"]


@dataclass(frozen=True)
class TokenSplit:
    """One tokenised split, as `scripts/tokenize_split.py` leaves it.

    Attributes:
        tokens: the whole stream, memory-mapped (uint16 or uint32).
        fingerprint: changes when a token, a document border or the tokenizer changes.
        info: the rest of data.json (``dtype``, ``tokens``, ``bos``, ``eos`` ...).
        scored: 1 per token that is a target (chats of which only answers count); None: every token is.
        sources: of pairs, the stream of sources, memory-mapped; then ``tokens`` is that of targets.
    """

    folder: Path
    tokens: np.ndarray
    fingerprint: str
    info: dict[str, Any]
    scored: np.ndarray | None = None
    sources: np.ndarray | None = None

    @classmethod
    def open(cls, folder: Path) -> TokenSplit:
        """Map ``folder/tokens.bin``; reads none of it.

        Raises:
            InputOutputError: if the folder is not whole.
        """
        folder = Path(folder)
        info = read_json(folder / "data.json")
        path, dtype = folder / "tokens.bin", np.dtype(info["dtype"])
        size = path.stat().st_size if path.exists() else -1
        if size != info["tokens"] * dtype.itemsize:
            raise InputOutputError(
                f"{path} has {size} bytes, but {folder / 'data.json'} promises {info['tokens']} tokens of {dtype}. "
                "Delete the folder and run its step again."
            )
        tokens = np.memmap(path, dtype=dtype, mode="r") if size else np.empty(0, dtype)
        scored = None
        if (folder / "scored.bin").exists():
            scored = np.memmap(folder / "scored.bin", dtype=np.uint8, mode="r", shape=(info["tokens"],))
        sources = None
        if "source_tokens" in info:
            sources = np.memmap(folder / "sources.bin", dtype=dtype, mode="r", shape=(info["source_tokens"],))
        return cls(folder, tokens, info["fingerprint"], info, scored, sources)

    @property
    def task(self) -> str:
        """``text`` or ``pairs``."""
        return str(self.info.get("task", "text"))

    @functools.cached_property
    def documents(self) -> pd.DataFrame:
        """One row per document: document, start, length (its text alone, in tokens), bytes, words."""
        import pandas as pd

        return pd.read_parquet(self.folder / "documents.parquet")

    def drawn(self, count: int = 0) -> list[int]:
        """Indices of ``count`` documents (0: all), drawn with ``data.seed`` from the whole split, in the order of the draw."""
        from isotone.data.splits import uniform

        seed = self.info.get("origin", {}).get("seed", 0)
        levels = [uniform(seed, str(name)) for name in self.documents["document"]]
        return [int(index) for index in np.argsort(levels, kind="stable")[: count or None]]

    def text_ids(self, index: int) -> np.ndarray:
        """Token ids of one document's text, without special tokens (int64)."""
        row = self.documents.iloc[index]
        return np.asarray(self.tokens[row["start"] : row["start"] + row["length"]], np.int64)

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """``(source_ids, target_ids)`` of one pair, int64: prefix, source and EOS; target and EOS.

        Raises:
            ConfigurationError: if this is a split of texts.
        """
        if self.sources is None:
            raise ConfigurationError(f"{self.folder} holds texts, not pairs. Set data.task: pairs.")
        row = self.documents.iloc[index]
        source = self.sources[row["source_start"] : row["source_start"] + row["source_length"]]
        target = self.tokens[row["start"] : row["start"] + row["length"] + 1]
        return np.asarray(source, np.int64), np.asarray(target, np.int64)


class Blocks:
    """A split as ``len(self)`` blocks of ``length`` targets each."""

    def __init__(self, split: TokenSplit, length: int) -> None:
        """Cut ``split`` into blocks.

        Raises:
            ConfigurationError: if the split is too short for one block.
        """
        self.split, self.length = split, length
        self.count = max(0, (len(split.tokens) - 1) // length)
        if not self.count:
            raise ConfigurationError(
                f"{split.folder} has {len(split.tokens)} tokens, too few for one block of training.length = {length}. "
                "Give the split more documents, or choose a smaller training.length."
            )
        bos = split.info.get("bos")
        distinct = split.info.get("document_start") == "bos" and bos is not None and bos != split.info.get("eos")
        self._bos = bos if distinct else None

    def __len__(self) -> int:
        """How many blocks there are; what is left of the last one is not used."""
        return self.count

    def batch(self, indices: np.ndarray) -> Batch:
        """Some blocks, on the CPU."""
        import torch

        inputs_BT, targets_BT = self.arrays(indices)
        return Batch(torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT))

    def arrays(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(inputs_BT, targets_BT)``, int64; a distinct BOS is an input, never a target.

        Raises:
            IndexError: if an index is not a block.
        """
        indices = np.asarray(indices, np.int64)
        if len(indices) and not (indices.min() >= 0 and indices.max() < self.count):
            raise IndexError(f"blocks {indices.min()} to {indices.max()} of {self.count}")
        rows = indices[:, None] * self.length + np.arange(self.length + 1)
        window = self.split.tokens[rows].astype(np.int64)
        inputs_BT, targets_BT = window[:, :-1].copy(), window[:, 1:].copy()
        if self._bos is not None:
            targets_BT[targets_BT == self._bos] = UNSCORED
        if self.split.scored is not None:
            targets_BT[self.split.scored[rows[:, 1:]] == 0] = UNSCORED
        return inputs_BT, targets_BT
