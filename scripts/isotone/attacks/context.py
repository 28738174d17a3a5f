"""What every attack is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from isotone.attacks.objective import TextObjective
from isotone.attacks.settings import AttackJob
from isotone.attacks.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


@dataclass(frozen=True)
class Context:
    """A target, its settings and what flips may write.

    Attributes:
        tokenizer: given in the threat model `text` only.
        codec: the model's tokenizer, in every threat model, for attacks that write text.
        restart: above 0, the same search from a fresh start, with random numbers of its own.
    """

    objective: TextObjective
    vocabulary: Vocabulary
    job: AttackJob
    tokenizer: Tokenizer | None = None
    restart: int = 0
    codec: Tokenizer | None = None

    @property
    def seed(self) -> int:
        """Of all random streams."""
        return self.job.shared.seed
