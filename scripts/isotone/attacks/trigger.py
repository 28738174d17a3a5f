"""Universal triggers: one token sequence in front of every text.

A trigger is searched on one set of documents and measured on another. Every text
token is scored with and without it, and room is kept so that no text is cut.

Source: Wallace et al. 2019 (arXiv:1908.07125): the trigger's tokens are replaced one
at a time by what a gradient over a batch of texts likes best.
"""

# Shape suffixes: B = texts, T = text tokens, L = trigger tokens, N = trigger variants, D = width, A = allowed tokens.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from isotone.attacks.documents import Document
from isotone.attacks.objective import Ledger, TextObjective, check_numbers
from isotone.attacks.vocabulary import Vocabulary, survives
from isotone.evaluation.streams import stream
from isotone.records import Json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

SLICE = 4  # the fixed slice holds so many mini-batches: it is read once a step, and a small one would be overfitted


def by_length(documents: Sequence[Document]) -> list[list[int]]:
    """Indices of documents of equal length, so that no text is padded."""
    lengths = sorted({len(document.ids) for document in documents}, reverse=True)
    return [[i for i, document in enumerate(documents) if len(document.ids) == length] for length in lengths]


class TriggerObjective:
    """Mean J of a set of texts behind a trigger, nats.

    Args:
        documents: the texts; their clean losses are computed once, here.
    """

    def __init__(self, objective: TextObjective, documents: Sequence[Document], length: int) -> None:
        """Score the texts without a trigger."""
        self.objective, self.documents, self.length = objective, list(documents), length
        longest = max(len(document.ids) for document in documents)
        objective.scorer.check_length(objective.tokens(longest + length), "A trigger in front of the longest document")
        self.clean: list[np.ndarray] = [np.zeros(0)] * len(self.documents)
        self.ledger = Ledger()
        for group in by_length(self.documents):
            nll_BT = objective.scores(np.stack([self.documents[i].ids for i in group]))
            check_numbers(nll_BT, [self.documents[i].name for i in group])
            for row, i in enumerate(group):
                self.clean[i] = nll_BT[row]
            self.ledger.forward_tokens += nll_BT.shape[0] * objective.tokens(nll_BT.shape[1])

    def _texts(self, triggers_NL: np.ndarray, group: Sequence[int]) -> np.ndarray:
        texts_BT = np.stack([self.documents[i].ids for i in group])
        return np.concatenate(
            [np.repeat(triggers_NL, len(group), axis=0), np.tile(texts_BT, (len(triggers_NL), 1))], axis=1
        )

    def losses(self, triggers_NL: np.ndarray, which: Sequence[int]) -> list[np.ndarray]:
        """NLL of text ``which[j]`` behind each trigger, as ``[N, T]`` (its own tokens only)."""
        found: dict[int, np.ndarray] = {}
        for group in by_length([self.documents[i] for i in which]):
            members = [which[i] for i in group]
            ids = self._texts(triggers_NL, members)
            nll = self.objective.scores(ids)[:, self.length :]
            check_numbers(nll, [self.documents[i].name for i in members] * len(triggers_NL))
            self.ledger.forward_tokens += len(ids) * self.objective.tokens(ids.shape[1])
            for row, i in enumerate(members):
                found[i] = nll[row :: len(members)]
        return [found[i] for i in which]

    def rises(self, triggers_NL: np.ndarray, which: Sequence[int]) -> np.ndarray:
        """J of each trigger, averaged over the texts ``which``: ``[N]``."""
        first = self.objective.scored.start
        losses = self.losses(triggers_NL, which)
        return np.mean(
            [(nll - self.clean[i])[:, first:].mean(-1) for i, nll in zip(which, losses, strict=True)], axis=0
        )

    def slopes(self, trigger_L: np.ndarray, which: Sequence[int]) -> tuple[float, Tensor]:
        """``(J, gradient [L, D] of J)`` at the trigger's embeddings, averaged over the texts ``which``."""
        total, grad_LD = 0.0, torch.zeros(())
        first = self.objective.scored.start
        for group in by_length([self.documents[i] for i in which]):
            members = [which[i] for i in group]
            ids = self._texts(trigger_L[None], members)
            weights = np.zeros(ids.shape)
            weights[:, self.length + first :] = 1 / (ids.shape[1] - self.length - first) / len(which)
            nll, grad = self.objective.slopes(ids, weights)
            clean = np.stack([self.clean[i] for i in members])
            total += float(((nll[:, self.length :] - clean) * weights[:, self.length :]).sum())
            grad_LD = grad_LD + grad[:, : self.length].sum(0)
            tokens = len(ids) * self.objective.tokens(ids.shape[1])
            self.ledger = self.ledger.plus(Ledger(forward_tokens=tokens, backward_tokens=tokens))
        return total, grad_LD


class Proposals(Protocol):
    """Which triggers to try next."""

    def __call__(self, trigger_L: np.ndarray, grad_LD: Tensor, step: int, generator: np.random.Generator) -> np.ndarray:
        """Variants of the trigger, ``[N, L]``."""


@dataclass
class Slots:
    """Gradient proposals: several slots at once and single slots, or draws from the best of all slots (GCG).

    For triggers the gradient is a good guide (rank correlation with exact gains 0.6 to 0.8 on a small
    model) and gains of single slots are small, so the best tokens of the 1, 2, 4 ... best slots are
    tried together, beside single changes.
    """

    embedding_VD: Tensor
    vocabulary: Vocabulary
    count: int
    topk: int = 0  # above 0: GCG's draws from the top of every slot
    allowed_AD: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.allowed_AD = self.embedding_VD[torch.from_numpy(self.vocabulary.allowed).to(self.embedding_VD.device)]

    def __call__(self, trigger_L: np.ndarray, grad_LD: Tensor, step: int, generator: np.random.Generator) -> np.ndarray:
        """`Proposals`."""
        device = self.embedding_VD.device
        current_LD, grad_LD = self.embedding_VD[torch.from_numpy(trigger_L).to(device)], grad_LD.to(device)
        gain_LA = (grad_LD @ self.allowed_AD.T - (grad_LD * current_LD).sum(-1, keepdim=True)).cpu().numpy()
        gain_LA[trigger_L[:, None] == self.vocabulary.allowed[None]] = -np.inf
        keep = min(max(self.topk, self.count), gain_LA.shape[1] - 1)
        ranked_LK = np.argsort(-gain_LA, axis=1, kind="stable")[:, :keep]
        if self.topk:
            slots = generator.integers(len(trigger_L), size=self.count)
            best = ranked_LK[slots, generator.integers(ranked_LK.shape[1], size=self.count)]
            return self._single(trigger_L, slots, best)
        order = np.argsort(-gain_LA[np.arange(len(trigger_L)), ranked_LK[:, 0]], kind="stable")
        sizes = [size for size in (2**power for power in range(1, 10)) if size < len(order)]
        together = [order[:size] for size in [*sizes, len(order)]][: self.count // 2]
        joint_NL = np.repeat(trigger_L[None], len(together), axis=0)
        for row, slots in zip(joint_NL, together, strict=True):
            row[slots] = self.vocabulary.allowed[ranked_LK[slots, 0]]
        singles = self.count - len(joint_NL)
        turn = np.arange(singles) % len(order)
        single_NL = self._single(trigger_L, order[turn], ranked_LK[order[turn], np.arange(singles) // len(order)])
        return np.concatenate([joint_NL, single_NL])

    def _single(self, trigger_L: np.ndarray, slots: np.ndarray, choice: np.ndarray) -> np.ndarray:
        variants_NL = np.repeat(trigger_L[None], len(slots), axis=0)
        variants_NL[np.arange(len(slots)), slots] = self.vocabulary.allowed[choice]
        return variants_NL


def search_trigger(
    target: TriggerObjective,
    propose: Proposals,
    vocabulary: Vocabulary,
    *,
    restart: int,
    iterations: int,
    batch: int,
    seed: int,
    attack: str = "uat",
    tokenizer: Tokenizer | None = None,
) -> Json:
    """One restart: random start, exact scores on a mini-batch, confirmation on a fixed slice.

    A variant replaces the trigger if it is the best of its step on the mini-batch, better than
    the trigger there, and better on the fixed slice too (the mini-batch alone would be overfitted).

    Returns:
        ``{restart, trigger, J, curve: [{forward_tokens, J, trigger}], ledger}``, J on the fixed slice.
    """
    before = replace(target.ledger)
    count = len(target.documents)
    batch = min(batch, count)
    fixed = stream(seed, attack, "fixed slice").permutation(count)[: SLICE * batch].tolist()
    trigger_L = _start(vocabulary, target.length, stream(seed, attack, "start", restart=restart), tokenizer)
    best = float(target.rises(trigger_L[None], fixed)[0])
    candidates, curve = 0, []

    def spent() -> int:
        return target.ledger.forward_tokens - before.forward_tokens

    curve.append({"forward_tokens": spent(), "J": best, "trigger": trigger_L.tolist()})
    for step in range(iterations):
        generator = stream(seed, attack, "search", restart=restart, step=step)
        which = sorted(generator.permutation(count)[:batch].tolist())
        here, grad_LD = target.slopes(trigger_L, which)
        variants_NL = propose(trigger_L, grad_LD, step, generator)
        if tokenizer is not None:
            variants_NL = variants_NL[[survives(tokenizer, variant.tolist()) for variant in variants_NL]]
        if len(variants_NL):
            rises_N = target.rises(variants_NL, which)
            candidates += len(variants_NL)
            winner = int(np.argmax(rises_N))
            if rises_N[winner] > here:
                confirmed = float(target.rises(variants_NL[winner : winner + 1], fixed)[0])
                if confirmed > best:
                    trigger_L, best = variants_NL[winner], confirmed
        curve.append({"forward_tokens": spent(), "J": best, "trigger": trigger_L.tolist()})
    backward = target.ledger.backward_tokens - before.backward_tokens
    ledger = Ledger(spent(), backward, candidates)
    return {"restart": restart, "trigger": trigger_L.tolist(), "J": best, "curve": curve, "ledger": ledger.as_row()}


def _start(
    vocabulary: Vocabulary, length: int, generator: np.random.Generator, tokenizer: Tokenizer | None
) -> np.ndarray:
    """Random tokens; in the threat model `text`, the first draw of 1000 that survives as text."""
    trigger_L = generator.choice(vocabulary.allowed, size=length)
    for _ in range(1000):
        if tokenizer is None or survives(tokenizer, trigger_L.tolist()):
            break
        trigger_L = generator.choice(vocabulary.allowed, size=length)
    return trigger_L
