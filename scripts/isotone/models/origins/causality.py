"""Proof that a model reads left to right, for the arithmetic and attention of the study.

A model that sees its target would look perfect and mean nothing; a wrong mask,
a bidirectional attention kernel or remote code can do that silently.
"""

# Shape suffixes: T = positions, V = vocabulary.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isotone.errors import ConfigurationError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TOLERANCE = 1e-4  # of the largest change behind the changed token; a leak is of order 1


def _logits(model: PreTrainedModel, ids_T: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    import torch

    with torch.no_grad(), torch.autocast(ids_T.device.type, dtype, enabled=dtype != torch.float32):
        if model.config.is_encoder_decoder:  # the decoder reads from left to right; its source stays
            source = torch.zeros_like(ids_T)[None]
            return model(input_ids=source, decoder_input_ids=ids_T[None], use_cache=False).logits[0].float()
        return model(input_ids=ids_T[None], use_cache=False).logits[0].float()


def prove_causality(model: PreTrainedModel, length: int, dtype: torch.dtype, seed: int = 0) -> dict[str, Any]:
    """Change one token at three positions; no logit in front of it may move.

    Args:
        length: tokens of the trial sequence; positions 1, the middle and the last are tried.
        dtype: arithmetic to prove it for (autocast below fp32).

    Returns:
        Positions, and the largest change in front relative to the largest one behind.

    Raises:
        ConfigurationError: if a token in front changes, or nothing behind does.
    """
    import torch

    from isotone.models import embedding_of

    vocabulary = embedding_of(model).num_embeddings
    generator = torch.Generator().manual_seed(seed)
    ids_T = torch.randint(0, vocabulary, (length,), generator=generator).to(model.device)
    reference_TV = _logits(model, ids_T, dtype)
    positions = sorted({1, length // 2, length - 1})
    worst = 0.0
    for position in positions:
        changed_T = ids_T.clone()
        changed_T[position] = (changed_T[position] + vocabulary // 2) % vocabulary
        moved_T = (_logits(model, changed_T, dtype) - reference_TV).abs().amax(-1)
        behind, front = float(moved_T[position:].max()), float(moved_T[:position].max())
        if not behind > 0:
            raise ConfigurationError(
                f"model: changing token {position} of {length} changes no logit at all, so the model does not read its input."
            )
        worst = max(worst, front / behind)
        if front > TOLERANCE * behind:
            first = int((moved_T[:position] > TOLERANCE * behind).nonzero()[0])
            raise ConfigurationError(
                f"model: changing token {position} of {length} moves the logits at position {first}, in front of it, by "
                f"{front:.3g}: this model sees the future with attention {model.config._attn_implementation!r} and {dtype}. "
                "Its likelihoods mean nothing. Set model.attention: eager, or take a causal model."
            )
    return {"length": length, "positions": positions, "worst_leak": worst}
