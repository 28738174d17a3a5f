"""The forward pass up to the vocabulary projection, and that projection's parts.

Shape suffixes: B = batch, T = position, D = width, V = vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from isotone.errors import ConfigurationError
from isotone.models.families import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def hidden_states(
    model: PreTrainedModel,
    input_ids_BT: Tensor | None = None,
    *,
    inputs_embeds_BTD: Tensor | None = None,
    attention_mask_BT: Tensor | None = None,
) -> Tensor:
    """What the vocabulary projection sees, behind the final norm: [B, T, D].

    Give ids or embeddings. Without a mask the attention is purely causal, which is
    the fast path of every backend.

    Raises:
        ConfigurationError: for encoder-decoder models.
    """
    if model.config.is_encoder_decoder:
        raise ConfigurationError(
            f"{family_of(model).name} is an encoder-decoder model; scoring and attacks work on decoder-only models."
        )
    body: Any = model.base_model
    return body(
        input_ids=input_ids_BT,
        inputs_embeds=inputs_embeds_BTD,
        attention_mask=attention_mask_BT,
        use_cache=False,
    ).last_hidden_state


def head_of(model: PreTrainedModel) -> tuple[Tensor, Tensor | None, float]:
    """The vocabulary projection: ``(weight_VD, bias_V or None, scale)``, logits = scale (W h + b).

    The weight is the parameter itself, so gradients flow into it.
    """
    head = model.get_output_embeddings()
    scale = model.config.d_model**-0.5 if getattr(model.config, "scale_decoder_outputs", False) else 1.0
    return head.get_parameter("weight"), getattr(head, "bias", None), scale


def embedding_of(model: PreTrainedModel) -> nn.Embedding:
    """The token embedding, [V, D]."""
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise ConfigurationError(f"The input embedding is a {type(embedding).__name__}, not a table of token vectors.")
    return embedding


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
