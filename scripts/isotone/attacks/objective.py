"""What an attack maximises: collateral damage, in nats.

J is the mean rise of the negative log-likelihood of the tokens that were not
changed, those in front of the change included. An objective sees ids and gives
scores of positions; it does not assume that what is changed is what is scored.
"""

# Shape suffixes: B = texts, T = text tokens, L = trigger tokens, D = width.

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from isotone.attacks.published import SUCCESS, SUCCESS_PAIRS
from isotone.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor

    from isotone.evaluation.pairs import PairScorer
    from isotone.evaluation.scoring import Scorer


@dataclass
class Ledger:
    """What an attack spent. A forward pass counts all its tokens, prefix included, also where a prefix was reused."""

    forward_tokens: int = 0
    backward_tokens: int = 0
    candidates: int = 0

    def as_row(self) -> dict[str, int]:
        """The plain numbers."""
        return {
            "forward_tokens": self.forward_tokens,
            "backward_tokens": self.backward_tokens,
            "candidates": self.candidates,
        }

    def plus(self, other: Ledger) -> Ledger:
        """The sum of two."""
        return Ledger(
            self.forward_tokens + other.forward_tokens,
            self.backward_tokens + other.backward_tokens,
            self.candidates + other.candidates,
        )


class Objective(Protocol):
    """Scores of texts, and slopes of their weighted sum."""

    def scores(self, ids_BT: np.ndarray) -> np.ndarray:
        """NLL per scored position, ``[B, S]``."""

    def flips(
        self, ids_BT: np.ndarray, nll_BS: np.ndarray, rows_N: np.ndarray, places_N: np.ndarray, tokens_N: np.ndarray
    ) -> np.ndarray:
        """Scores of texts that differ in one token from texts with known scores, ``[N, S]``."""

    def slopes(self, ids_BT: np.ndarray, weights_BS: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """``(scores, gradient [B, T, D])`` of the weighted sum with respect to the embeddings."""


@dataclass
class TextObjective:
    """NLL of a text's own tokens under a causal model.

    Attributes:
        temperature: the model's own best one, at which `measure` scores the attacked texts once more; None: it does not.
        success: the relative rise of the loss that the published study called a success.
    """

    success: ClassVar[float] = SUCCESS
    scorer: Scorer
    temperature: float | None = None
    scored: slice = field(init=False)

    def __post_init__(self) -> None:
        self.scored = slice(0 if self.scorer.prefix is not None else 1, None)

    def scores(self, ids_BT: np.ndarray) -> np.ndarray:
        """NLL per token, ``[B, T]``, float64; 0 at an unscored first token."""
        import torch

        return self.scorer.texts(torch.from_numpy(ids_BT)).double().numpy()

    def flips(
        self, ids_BT: np.ndarray, nll_BT: np.ndarray, rows_N: np.ndarray, places_N: np.ndarray, tokens_N: np.ndarray
    ) -> np.ndarray:
        """NLL per token of texts that differ in one token from texts with known losses, ``[N, T]``, float64."""
        import torch

        known = torch.from_numpy(ids_BT), torch.from_numpy(nll_BT).float()
        return self.scorer.flips(*known, rows_N, places_N, tokens_N).double().numpy()

    def slopes(self, ids_BT: np.ndarray, weights_BT: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """As `Objective.slopes`; scores in float64."""
        import torch

        nll_BT, grad_BTD = self.scorer.gradients(torch.from_numpy(ids_BT), torch.from_numpy(weights_BT).float())
        return nll_BT.double().numpy(), grad_BTD

    def kept(self, ids_BT: np.ndarray, clean_BT: np.ndarray) -> np.ndarray:
        """True where a token of a text is scored and as it was."""
        kept_BT = np.equal(ids_BT, clean_BT)
        if self.scored.start:
            kept_BT[..., 0] = False
        return kept_BT

    def tokens(self, length: int) -> int:
        """Input tokens of one forward pass over a text."""
        return length - 1 + (self.scorer.prefix is not None)


@dataclass
class PairObjective(TextObjective):
    """NLL of a target's tokens, EOS included, given its source, which may be changed; rows are ``source EOS target EOS``."""

    success: ClassVar[float] = SUCCESS_PAIRS
    scorer: PairScorer

    def kept(self, ids_BT: np.ndarray, clean_BT: np.ndarray) -> np.ndarray:
        """True at every token of the target."""
        ends_BT = np.equal(clean_BT, self.scorer.eos)
        behind_BT = np.cumsum(ends_BT, -1) - ends_BT > 0
        return behind_BT & np.equal(ids_BT, clean_BT)

    def tokens(self, length: int) -> int:
        """Input tokens of encoder and decoder."""
        return length


def damage(nll_BT: np.ndarray, clean_BT: np.ndarray, kept_BT: np.ndarray) -> np.ndarray:
    """J of each text: mean rise in nats over the tokens in ``kept_BT``."""
    return np.where(kept_BT, nll_BT - clean_BT, 0.0).sum(-1) / np.maximum(kept_BT.sum(-1), 1)


def check_numbers(nll_BT: np.ndarray, names: list[str]) -> None:
    """Raise if a text's loss is not a number.

    Raises:
        ConfigurationError: names the first such document.
    """
    bad = np.flatnonzero(~np.isfinite(nll_BT).all(-1))
    if len(bad):
        raise ConfigurationError(
            f'Document "{names[bad[0]]}" has a loss that is not a number ({len(bad)} of {len(names)} documents). '
            "The model is broken: look at its train.json and history.csv; nothing is averaged over what is left."
        )
