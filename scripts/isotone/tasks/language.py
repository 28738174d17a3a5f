"""Language modelling: blocks of packed text, each token predicted from those in front of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isotone.data.blocks import Blocks, TokenSplit
from isotone.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Language:
    """`data.task: text`."""

    name = "text"

    def rows(self, split: TokenSplit, length: int) -> Blocks:
        """Blocks of ``length`` tokens."""
        return Blocks(split, length)

    def check(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse an encoder-decoder model."""
        if model.config.is_encoder_decoder:
            raise ConfigurationError(
                f"model: {type(model).__name__} reads a source and writes a target, but data.task is text. Set data.task: pairs, "
                "or choose a decoder-only model."
            )
