"""What a study should know about its model before it spends hours on it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotone.errors import ConfigurationError
from isotone.models import context_of, embedding_of, family_of
from isotone.models.forward import check_agreement

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def parameter_counts(model: PreTrainedModel) -> dict[str, int]:
    """Parameters in all, in feed-forward nets and in embeddings; a tied weight counts once."""
    counts = {"total": 0, "feed_forward": 0, "embedding": 0}
    inside = feed_forward_parameters(model)
    embeddings = {
        id(module.weight)
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        if module is not None
    }
    for name, weight in model.named_parameters():
        counts["total"] += weight.numel()
        if id(weight) in embeddings:
            counts["embedding"] += weight.numel()
        elif name in inside:
            counts["feed_forward"] += weight.numel()
    return counts


def feed_forward_parameters(model: PreTrainedModel) -> set[str]:
    """Names of the weights and biases of all feed-forward nets."""
    projections = [
        projection
        for sublayer in family_of(model).sublayers(model)
        for projection in (*sublayer.entrances, sublayer.exit)
    ]
    return {projection.weight_name for projection in projections} | {
        f"{projection.name}.bias" for projection in projections if projection.bias is not None
    }


def check_fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    """Refuse a tokenizer with an id beyond the model's rows, and sequences beyond its context.

    The largest id counts, not the number of tokens: ids may have holes.

    Raises:
        ConfigurationError: one paragraph.
    """
    rows = embedding_of(model).num_embeddings
    token, largest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if largest >= rows:
        raise ConfigurationError(
            f"model: its tokenizer gives {token!r} the id {largest}, but its embedding has only {rows} rows, 0 to {rows - 1}. "
            "They do not belong together; take the tokenizer that came with the model, or enlarge the embedding and train it."
        )
    context = context_of(model.config)
    if context and length > context:
        raise ConfigurationError(
            f"the study feeds up to {length} tokens to the model (training.length, perplexity.length, or attacks.shared.window with "
            f"the token in front and a trigger), but this model's context is {context}. Lower what is longer."
        )
    if tokenizer.eos_token_id is None:
        raise ConfigurationError("model: its tokenizer has no end-of-text token, which joins documents.")


def agreement_of(model: PreTrainedModel, length: int) -> float:
    """How closely hidden states and head give the model's own logits, on random tokens; see `check_agreement`.

    Raises:
        ConfigurationError: if they do not, or if the family is unknown.
    """
    import torch

    rows = embedding_of(model).num_embeddings
    ids_BT = torch.randint(0, rows, (2, length), generator=torch.Generator().manual_seed(0)).to(model.device)
    return check_agreement(model, ids_BT)


def model_facts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Sizes, counts and tokens, for the marker and the report."""
    config = model.config
    return {
        "family": config.model_type,
        "class": type(model).__name__,
        "layers": len(family_of(model).layers(model)),
        "hidden": embedding_of(model).embedding_dim,
        "context": context_of(model.config),
        "vocabulary": embedding_of(model).num_embeddings,
        "attention": config._attn_implementation,
        "parameters": parameter_counts(model),
        "tokenizer": {
            "class": type(tokenizer).__name__,
            "tokens": len(tokenizer),
            "bos": tokenizer.bos_token_id,
            "eos": tokenizer.eos_token_id,
            "chat_template": bool(tokenizer.chat_template),
        },
    }


def forward_pass(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> dict[str, Any]:
    """Loss of the first tokens of a text, in nats per token, beside that of a uniform guess.

    Raises:
        ConfigurationError: if it is not a finite number.
    """
    import torch

    ids = tokenizer(text[: length * 16], add_special_tokens=False, verbose=False)["input_ids"][:length]
    if len(ids) < 2:
        raise ConfigurationError("data: the first training document gives fewer than two tokens; check data.column.")
    ids_T = torch.tensor(ids, device=model.device)
    given = {"input_ids": ids_T[None]}
    if model.config.is_encoder_decoder:  # the text is its own source
        given["decoder_input_ids"] = ids_T[None]
    with torch.no_grad():
        logits_TV = model(**given, use_cache=False).logits[0].float()
    loss = float(torch.nn.functional.cross_entropy(logits_TV[:-1], ids_T[1:]))
    if not math.isfinite(loss):
        raise ConfigurationError(f"model: a forward pass over {len(ids)} tokens of text gives the loss {loss}.")
    return {"tokens": len(ids), "nats_per_token": round(loss, 4), "uniform": round(math.log(logits_TV.shape[1]), 4)}


def check_splitter(folder: Path, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> None:
    """Insist that the saved tokenizer.json alone splits text as the loaded tokenizer does.

    Tokenising reads that file without transformers; attacks and scoring go through
    transformers. The two must never differ.

    Raises:
        ConfigurationError: with the first text on which they do.
    """
    from isotone.data.encoder import text_encoder

    light = text_encoder(folder / "tokenizer.json")
    for text in texts:
        if (
            light.encode(text, add_special_tokens=False).ids
            != tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ):
            raise ConfigurationError(
                f"model: its tokenizer splits {text[:40]!r} differently once it is saved as tokenizer.json. "
                "It has rules of its own that a saved tokenizer does not keep; choose another model."
            )
