"""Scoring of pairs: the target's tokens, given a source that may be changed.

A pair is one row of ids, ``source EOS target EOS``; the first EOS tells where the target begins.
Losses stand where their tokens stand, so that searches and measures of texts work on pairs as they
are: a source token has the loss 0 and never counts.
"""

# Shape suffixes: B = pairs, W = tokens of source and target, S = of the source, T = of the target, N = rows, D = width.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from isotone import models
from isotone.data.batch import Batch
from isotone.data.blocks import TokenSplit
from isotone.data.pairs import padded
from isotone.errors import ConfigurationError
from isotone.evaluation.scoring import Scorer
from isotone.models import loss
from isotone.records import Json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS = 32  # pairs of one padded forward pass


def joined(source_ids: np.ndarray, target_ids: np.ndarray) -> np.ndarray:
    """A pair as one row; both end with EOS."""
    return np.concatenate([source_ids, target_ids])


class PairScorer(Scorer):
    """A frozen encoder-decoder model that scores pairs.

    Args:
        eos: the token that ends sources and targets, and stands nowhere else.
    """

    def __init__(self, model: Any, eos: int, *, batch: int = 0) -> None:
        super().__init__(model, None, batch=batch)
        self.eos, self.start = eos, int(model.config.decoder_start_token_id)

    def source_length(self, ids_W: Tensor) -> int:
        """Tokens of a row's source, its EOS included."""
        return int((ids_W == self.eos).int().argmax()) + 1

    def _batch(self, ids_BW: Tensor, size: int) -> Batch:
        source_BS, target_BT = ids_BW[:, :size], ids_BW[:, size:]
        start_B1 = target_BT.new_full((len(target_BT), 1), self.start)
        return Batch(torch.cat([start_B1, target_BT[:, :-1]], 1), target_BT, source_BS)

    def _alike(self, ids_BW: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Rows whose sources are equally long go together: nothing is padded, and nothing depends on the company."""
        sizes_B = torch.tensor([self.source_length(ids_W) for ids_W in ids_BW])
        for size in sizes_B.unique().tolist():
            yield size, torch.nonzero(sizes_B == size)[:, 0]

    def texts(self, ids_BT: Tensor) -> Tensor:
        """NLL of every token of the target, ``[B, W]`` fp32 on the CPU; 0 at the source."""
        result = torch.zeros(ids_BT.shape)
        for size, rows in self._alike(ids_BT):

            @torch.inference_mode()
            def score(members: Sequence[int], size: int = size, rows: Tensor = rows) -> list[Tensor]:
                part_BW = ids_BT[rows[list(members)]].to(self.device)
                hidden_BTD = models.hidden_states(self.model, self._batch(part_BW, size))
                return list(self.nll_of_hidden(hidden_BTD, part_BW).cpu())

            result[rows] = torch.stack(self.in_batches(score, len(rows), ids_BT.shape[1]))
        return result

    def flips(
        self, ids_BT: Tensor, nll_BT: Tensor, rows_N: np.ndarray, places_N: np.ndarray, tokens_N: np.ndarray
    ) -> Tensor:
        """As `Scorer.flips`. An encoder reads both ways, so every pass is a whole one."""
        changed_NT = ids_BT[torch.from_numpy(rows_N)].clone()
        changed_NT[torch.arange(len(rows_N)), torch.from_numpy(places_N)] = torch.from_numpy(tokens_N)
        return self.texts(changed_NT)

    def gradients(self, ids_BT: Tensor, weights_BT: Tensor) -> tuple[Tensor, Tensor]:
        """As `Scorer.gradients`; slopes at the target's tokens are 0, since nothing changes them."""
        nll_BT = torch.zeros(ids_BT.shape)
        grad_BTD = torch.zeros(*ids_BT.shape, self.embedding.embedding_dim)
        for size, rows in self._alike(ids_BT):

            def slope(members: Sequence[int], size: int = size, rows: Tensor = rows) -> list[tuple[Tensor, Tensor]]:
                chosen = rows[list(members)]
                part_BW = ids_BT[chosen].to(self.device)
                batch = self._batch(part_BW, size)
                embeds_BSD = self.embedding(batch.source_BS).detach().requires_grad_()
                hidden_BTD = models.hidden_states(self.model, batch, inputs_embeds_BTD=embeds_BSD)
                nll_BW = self.nll_of_hidden(hidden_BTD, part_BW)
                (grad_BSD,) = torch.autograd.grad((nll_BW * weights_BT[chosen].to(self.device)).sum(), embeds_BSD)
                return list(zip(nll_BW.detach().cpu(), grad_BSD.cpu(), strict=True))

            found = self.in_batches(slope, len(rows), 3 * ids_BT.shape[1])
            nll_BT[rows] = torch.stack([nll for nll, _ in found])
            grad_BTD[rows, :size] = torch.stack([grad for _, grad in found])
        return nll_BT, grad_BTD

    def states(self, before_T: Tensor, after_T: Tensor) -> list[Tensor]:
        """Hidden states that predict the targets of two rows, ``[T, D]`` each."""
        return [
            models.hidden_states(self.model, self._batch(ids_W[None].to(self.device), self.source_length(ids_W)))[0]
            for ids_W in (before_T, after_T)
        ]

    @torch.inference_mode()
    def pairs(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Summed NLL of each pair's target, EOS included, nats, float64, in the order given."""
        totals = np.zeros(len(pairs))
        order = sorted(range(len(pairs)), key=lambda index: (-len(pairs[index][0]), -len(pairs[index][1]), index))
        for first in range(0, len(order), ROWS):
            group = order[first : first + ROWS]
            batch = padded([pairs[index] for index in group], self.start).to(self.device)
            hidden_ND = models.hidden_states(self.model, batch).flatten(0, 1)
            nll_N = loss.token_nll(
                hidden_ND, self.head, batch.targets_BT.flatten(), rows=self.rows, columns=self.columns
            )
            totals[group] = nll_N.view_as(batch.targets_BT).double().sum(1).cpu().numpy()
        return totals


def open_scorer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, document_start: str) -> Scorer:
    """The scorer of a model: of texts, or of pairs where the model has an encoder."""
    if model.config.is_encoder_decoder:
        return PairScorer(model, int(tokenizer.eos_token_id))
    return Scorer(model, models.prefix_token(tokenizer, document_start))


def rows_of(scorer: PairScorer, split: TokenSplit, protocol: str, indices: Sequence[int]) -> list[Json]:
    """Rows of schema ``perplexity/1``: the whole target of each pair, EOS included, given its source.

    Raises:
        ConfigurationError: if a loss is not a number.
    """
    pairs, table = [split.pair(index) for index in indices], split.documents
    sums = scorer.pairs(pairs)
    rows = []
    for index, (_, target), nll in zip(indices, pairs, sums, strict=True):
        name = str(table["document"].iloc[index])
        if not np.isfinite(nll):
            raise ConfigurationError(
                f'Document "{name}" has a loss that is not a number. The model is broken: look at its train.json and history.csv.'
            )
        rows.append(
            {
                "protocol": protocol,
                "document": name,
                "tokens": len(target),
                "bytes": int(table["bytes"].iloc[index]),
                "words": int(table["words"].iloc[index]),
                "nll": float(nll),
                "excluded": False,
            }
        )
    return rows
