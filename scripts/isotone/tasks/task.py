"""The interface of a task, and which one a split belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from isotone.data.blocks import TokenSplit

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from isotone.data.batch import Batch


class Rows(Protocol):
    """A split as numbered rows of equal shape."""

    @property
    def length(self) -> int:
        """Positions of a row (of pairs: on the source side)."""

    def __len__(self) -> int:
        """How many there are."""

    def batch(self, indices: np.ndarray) -> Batch:
        """Some rows, on the CPU."""


class Task(Protocol):
    """What a model is trained and judged on."""

    name: str

    def rows(self, split: TokenSplit, length: int) -> Rows:
        """The rows of a split.

        Raises:
            ConfigurationError: if it is too short, or ``length`` too small.
        """

    def check(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a model that cannot do it.

        Raises:
            ConfigurationError: one paragraph.
        """


def task_of(name: str) -> Task:
    """The task of that name (`data.task`)."""
    from isotone.tasks.language import Language
    from isotone.tasks.seq2seq import SequenceToSequence

    known: dict[str, Task] = {task.name: task for task in (Language(), SequenceToSequence())}
    return known[name]


def rows_of(folder: Path, length: int) -> Rows:
    """The rows of a tokenised split, whatever its task."""
    split = TokenSplit.open(folder)
    return task_of(split.task).rows(split, length)
