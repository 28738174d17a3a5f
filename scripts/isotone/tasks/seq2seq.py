"""Sequence to sequence: pairs of a source, which an encoder reads, and a target, which a decoder writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isotone.data.blocks import TokenSplit
from isotone.data.pairs import PairRows
from isotone.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SequenceToSequence:
    """`data.task: pairs`."""

    name = "pairs"

    def rows(self, split: TokenSplit, length: int) -> PairRows:
        """Pairs packed into rows of ``length`` source tokens."""
        return PairRows(split, length)

    def check(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a decoder-only model, and a tokenizer without EOS or padding."""
        if not model.config.is_encoder_decoder:
            raise ConfigurationError(
                f"model: {type(model).__name__} has no encoder, but data.task is pairs. Choose an encoder-decoder model (t5), or "
                "data.task: text."
            )
        for name in ("eos_token", "pad_token"):
            if getattr(tokenizer, f"{name}_id") is None:
                raise ConfigurationError(
                    f"model: its tokenizer has no {name.replace('_', ' ')}, which data.task: pairs needs (end of a source or target, "
                    "and start of a decoder). Add one to its tokenizer_config.json."
                )
        if model.config.decoder_start_token_id is None:
            raise ConfigurationError(
                "model: its configuration names no decoder_start_token_id, the token with which a target begins. Add it to config.json."
            )
