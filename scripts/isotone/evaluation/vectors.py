"""Scores of texts whose input vectors need not be those of tokens."""

# Shape suffixes: B = texts, S = input positions, T = text tokens, D = width.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from isotone import models
from isotone.evaluation.scoring import Comparison, Scorer


def vectors_of(scorer: Scorer, ids_BT: np.ndarray) -> Tensor:
    """What the model's embedding makes of the inputs that score some texts: the prefix, and all tokens but the last."""
    inputs_BS = scorer.inputs_of(torch.from_numpy(ids_BT)).to(scorer.device)
    return scorer.embedding(inputs_BS).detach()


def losses_and_slopes(
    scorer: Scorer, vectors_BSD: Tensor, ids_BT: np.ndarray, kept_BT: np.ndarray
) -> tuple[np.ndarray, Tensor]:
    """NLL of every text token behind these input vectors, and the slope of the sum over ``kept_BT``.

    Args:
        vectors_BSD: as `vectors_of`, with any number of vectors in front.

    Returns:
        ``(nll_BT, grad_BSD)``: float64, 0 at an unscored first token; on the scorer's device.
    """

    def slope(rows: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        members = slice(rows[0], rows[-1] + 1)
        part_BT = torch.from_numpy(ids_BT[members]).to(scorer.device)
        inputs_BSD = vectors_BSD[members].detach().requires_grad_()
        scored = part_BT.shape[1] - (scorer.prefix is None)
        hidden_BSD = models.hidden_states(scorer.model, inputs_embeds_BTD=inputs_BSD)[:, -scored:]
        nll_BT = scorer.nll_of_hidden(hidden_BSD, part_BT)
        kept = torch.from_numpy(kept_BT[members]).to(nll_BT.device)
        (grad_BSD,) = torch.autograd.grad((nll_BT * kept).sum(), inputs_BSD)
        return list(zip(nll_BT.detach().cpu(), grad_BSD, strict=True))

    pairs = scorer.in_batches(slope, len(ids_BT), 3 * vectors_BSD.shape[1])
    return torch.stack([nll for nll, _ in pairs]).double().numpy(), torch.stack([grad for _, grad in pairs])


@torch.inference_mode()
def compare(scorer: Scorer, ids_T: np.ndarray, vectors_SD: Tensor, temperature: float = 1.0) -> Comparison:
    """How the predictions of a text's tokens differ once other vectors go in."""
    text_T = torch.from_numpy(ids_T)
    clean_SD = models.hidden_states(scorer.model, scorer.inputs_of(text_T[None].to(scorer.device)))[0]
    moved_SD = models.hidden_states(scorer.model, inputs_embeds_BTD=vectors_SD[None])[0]
    return scorer.compare_hidden((clean_SD, moved_SD), (text_T, text_T), temperature)
