"""The forward pass up to the vocabulary projection, and that projection's parts.

Shape suffixes: B = batch, T = position, D = width, V = vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from isotone.data.batch import PADDING, Batch
from isotone.errors import ConfigurationError
from isotone.models.families import family_of

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from isotone.models.loss import Head

AGREEMENT = 1e-4  # of the largest logit; another function is off by far more, rounding by far less


@contextlib.contextmanager
def _unpacked() -> Iterator[None]:
    """Spare the search for several sequences in one row, which waits for the device at every pass.

    transformers reads position ids back to the host for it; here a row is one sequence, counted from 0.
    """
    from transformers import masking_utils

    name = "find_packed_sequence_indices"
    search = getattr(masking_utils, name, None)
    if search is None:
        yield
        return
    setattr(masking_utils, name, lambda position_ids: None)
    try:
        yield
    finally:
        setattr(masking_utils, name, search)


def positions(model: PreTrainedModel, input_ids_BT: Tensor, start: int = 0) -> dict[str, Tensor]:
    """Position ids of tokens behind ``start`` others, as an argument of the model's body; nothing where it counts itself.

    OPT would count them by a running sum of floats, which has no deterministic form on CUDA.
    """
    import torch

    if model.config.model_type != "opt":
        return {}
    count = torch.arange(start, start + input_ids_BT.shape[1], device=input_ids_BT.device)
    return {"position_ids": count.expand(len(input_ids_BT), -1)}


def choose_experts(model: PreTrainedModel) -> PreTrainedModel:
    """On an accelerator, experts one after the other: the grouped form counts tokens by a histogram, which CUDA cannot repeat."""
    from isotone.devices import accelerated

    if accelerated(model.device) and getattr(model.config, "_experts_implementation", None) is not None:
        model.config._experts_implementation = "eager"
    return model


def hidden_states(
    model: PreTrainedModel,
    inputs: Tensor | Batch | None = None,
    *,
    inputs_embeds_BTD: Tensor | None = None,
    attention_mask_BT: Tensor | None = None,
) -> Tensor:
    """What the vocabulary projection sees, behind the final norm: [B, T, D].

    Give ids, a batch or embeddings. Without a mask the attention is purely causal, which is
    the fast path of every backend.

    Args:
        inputs: token ids [B, T]; for an encoder-decoder model a batch with sources.
        inputs_embeds_BTD: embeddings instead of ids; with a batch of pairs those of its sources.

    Raises:
        ConfigurationError: if an encoder-decoder model is given no sources, or a decoder-only one is given some.
    """
    batch = inputs if isinstance(inputs, Batch) else None
    if model.config.is_encoder_decoder != (batch is not None and batch.source_BS is not None):
        needs = (
            "reads sources and targets" if model.config.is_encoder_decoder else "has no encoder to read sources with"
        )
        raise ConfigurationError(f"{family_of(model).name} {needs}: data.task does not fit the model.")
    if batch is not None and batch.source_BS is not None:
        return pair_states(model, batch, inputs_embeds_BTD)
    input_ids_BT = batch.inputs_BT if batch is not None else inputs if not isinstance(inputs, Batch) else None
    body: Any = model.base_model
    tokens = input_ids_BT if input_ids_BT is not None else inputs_embeds_BTD
    given = positions(model, tokens) if attention_mask_BT is None and tokens is not None else {}
    with _unpacked():
        return body(
            input_ids=input_ids_BT,
            inputs_embeds=inputs_embeds_BTD,
            attention_mask=attention_mask_BT,
            use_cache=False,
            **given,
        ).last_hidden_state


def block_masks(model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
    """Which positions see which in rows of several pairs, True where they do, ``[B, 1, to, from]``.

    Eager attention adds its mask, so there it is 0 where they do and the lowest number elsewhere.

    A position sees those of its own pair, in the decoder up to itself. Padding of targets sees
    every source position, so that no row of a softmax is empty.
    """
    import torch

    if batch.segments is None:
        return {}
    source_BS, target_BT = batch.segments
    alike = target_BT[:, None, :, None] == target_BT[:, None, None, :]
    behind = torch.ones(alike.shape[-2:], dtype=torch.bool, device=alike.device).tril()
    own = target_BT[:, None, :, None] == source_BS[:, None, None, :]
    masks = {
        "encoder": source_BS[:, None, :, None] == source_BS[:, None, None, :],
        "decoder": alike & behind,
        "across": own | (target_BT == PADDING)[:, None, :, None],
    }
    if model.config._attn_implementation != "eager":
        return masks
    lowest = torch.finfo(model.dtype).min
    return {
        name: torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, lowest)
        for name, mask in masks.items()
    }


def pair_states(model: PreTrainedModel, batch: Batch, source_BSD: Tensor | None = None) -> Tensor:
    """`hidden_states` of an encoder-decoder model; T5's positions are relative, so a pair is alone in its row.

    Args:
        source_BSD: embeddings of the sources instead of their ids.
    """
    encoder: Any = model.get_encoder()
    decoder: Any = model.get_decoder()
    masks = block_masks(model, batch)
    given = {"input_ids": batch.source_BS} if source_BSD is None else {"inputs_embeds": source_BSD}
    read_BSD = encoder(**given, attention_mask=masks.get("encoder")).last_hidden_state
    return decoder(
        input_ids=batch.inputs_BT,
        attention_mask=masks.get("decoder"),
        encoder_hidden_states=read_BSD,
        encoder_attention_mask=masks.get("across"),
        use_cache=False,
    ).last_hidden_state


def head_of(model: PreTrainedModel) -> Head:
    """The vocabulary projection with the family's scale and soft cap.

    The weight is the parameter itself, so gradients flow into it.
    """
    from isotone.models.loss import Head

    head: Any = model.get_output_embeddings()
    logits = family_of(model).logits
    return Head(
        head.get_parameter("weight"),
        getattr(head, "bias", None),
        logits.scale_of(model.config),
        logits.cap_of(model.config),
    )


def embedding_of(model: PreTrainedModel) -> nn.Embedding:
    """The token embedding, [V, D]; calling it gives what goes into the blocks."""
    from torch import nn

    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise ConfigurationError(f"The input embedding is a {type(embedding).__name__}, not a table of token vectors.")
    return embedding


def token_vectors(embedding: nn.Embedding) -> Tensor:
    """What an embedding gives for each token, [V, D] fp32 without gradient: its table, scaled where it scales (Gemma)."""
    table_VD = embedding.weight.detach().float()
    scale = getattr(embedding, "embed_scale", None)
    return table_VD if scale is None else table_VD * float(scale)


def check_agreement(model: PreTrainedModel, ids_BT: Tensor) -> float:
    """Insist that hidden states and head give the logits that the model itself gives.

    An encoder-decoder model reads the ids as source, and backwards as the decoder's inputs.

    Returns:
        The largest difference over the largest logit.

    Raises:
        ConfigurationError: if they differ: every loss and every gradient would be another function's.
    """
    import torch

    ours: Tensor | Batch = ids_BT
    theirs = {"input_ids": ids_BT}
    if model.config.is_encoder_decoder:
        theirs["decoder_input_ids"] = ids_BT.flip(1)
        ours = Batch(ids_BT.flip(1), ids_BT, ids_BT)
    with torch.no_grad():
        own_BTV = model(**theirs, use_cache=False).logits.float()
        ours_NV = head_of(model).logits(hidden_states(model, ours).flatten(0, 1))
        largest = float(own_BTV.abs().max())
        gap = float((ours_NV.view_as(own_BTV) - own_BTV).abs().max()) / max(largest, 1e-30)
    if not gap <= AGREEMENT:
        raise ConfigurationError(
            f"model: hidden states and vocabulary projection as Isotone reads them give logits that differ by {gap:.2g} of the "
            f"largest from the model's own. The row of {family_of(model).name} in isotone/models/families.py does not fit this "
            "model: its logits are scaled, capped or shifted in a way that the row does not say."
        )
    return gap


def prefix_token(tokenizer: PreTrainedTokenizerBase, document_start: str) -> int | None:
    """The token in front of every document.

    Args:
        document_start: ``bos`` (EOS where the tokenizer has no BOS), ``eos`` or ``none``.

    Raises:
        ConfigurationError: if the tokenizer has neither.
    """
    if document_start == "none":
        return None
    token = tokenizer.bos_token_id if document_start == "bos" else tokenizer.eos_token_id
    token = tokenizer.eos_token_id if token is None else token
    if token is None:
        raise ConfigurationError(
            f'data.document_start is "{document_start}", but the tokenizer has neither BOS nor EOS. Choose none.'
        )
    return int(token)
