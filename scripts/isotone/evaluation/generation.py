"""What an encoder-decoder model writes for a source: greedy or beam search, the same for every batch.

The search is transformers' own. Every setting of it is given here: what a model folder's
``generation_config.json`` asks for plays no part, and neither does sampling.
"""

# Shape suffixes: B = sources, S = source tokens, N = written tokens.

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from isotone.config.evaluation import Generation
from isotone.errors import ConfigurationError
from isotone.evaluation.scoring import split_when_full

BATCH = 16  # sources that are read together, each with its beams


@dataclass(frozen=True)
class Written:
    """One output.

    Attributes:
        ids: its tokens without start, EOS and padding, ``[N]``.
        capped: whether it ended at the limit, without an EOS.
    """

    ids: np.ndarray
    capped: bool


class Writer:
    """A frozen encoder-decoder model that writes.

    Args:
        model: in evaluation mode.
        settings: how it searches.
        batch: sources at a time; never changes an output beyond rounding.

    Raises:
        ConfigurationError: for a decoder-only model, or one without start, EOS or padding token.
    """

    def __init__(self, model: Any, settings: Generation, *, batch: int = BATCH) -> None:
        config = model.config
        if not config.is_encoder_decoder:
            raise ConfigurationError(
                f"{config.model_type} is a decoder-only model; generation reads a source and writes a target. "
                "Set generation.run to false, or name an encoder-decoder model."
            )
        for key in ("decoder_start_token_id", "eos_token_id", "pad_token_id"):
            if not isinstance(getattr(config, key, None), int):
                raise ConfigurationError(
                    f"model: its config.json has no single {key}, which generation starts, ends or pads with. Add it there."
                )
        self.model = model.eval()
        self.settings = settings
        self.batch = batch
        self.search = search_of(config, settings)

    def write(self, sources: Sequence[np.ndarray]) -> list[Written]:
        """One output per source, in the order given; sources hold prefix and EOS, and no padding.

        Sources of about equal length go together. Padding stands on the right and is masked.
        """
        order = sorted(range(len(sources)), key=lambda index: (len(sources[index]), index))
        outputs: dict[int, Written] = {}
        for first in range(0, len(order), self.batch):
            part = order[first : first + self.batch]
            outputs.update(zip(part, split_when_full(self._write, [sources[index] for index in part]), strict=True))
        return [outputs[index] for index in range(len(sources))]

    @torch.inference_mode()
    def _write(self, sources: Sequence[np.ndarray]) -> list[Written]:
        shape = len(sources), max(len(source) for source in sources)
        ids_BS = np.full(shape, self.model.config.pad_token_id, np.int64)
        mask_BS = np.zeros(shape, np.int64)
        for row, source in enumerate(sources):
            ids_BS[row, : len(source)] = source
            mask_BS[row, : len(source)] = 1
        device = self.model.device
        with _only(self.model, self.search):
            found_BN = self.model.generate(
                input_ids=torch.from_numpy(ids_BS).to(device),
                attention_mask=torch.from_numpy(mask_BS).to(device),
                generation_config=self.search,
            )
        return [self._output(ids_N) for ids_N in found_BN[:, 1:].cpu().numpy()]  # the first is the start token

    def text(self, tokenizer: Any, written: Written) -> str:
        """An output as text, without special tokens."""
        return tokenizer.decode(written.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def _output(self, ids_N: np.ndarray) -> Written:
        ends = np.flatnonzero(ids_N == self.model.config.eos_token_id)
        return Written(ids_N[: ends[0]] if len(ends) else ids_N, not len(ends))


def search_of(config: Any, settings: Generation) -> Any:
    """transformers' form of the settings, with this model's own special tokens.

    Args:
        config: the model's.
    """
    from transformers import GenerationConfig

    several = settings.beams > 1
    return GenerationConfig(
        do_sample=False,
        num_beams=settings.beams,
        num_return_sequences=1,
        length_penalty=settings.length_penalty if several else None,
        early_stopping=settings.early_stopping if several else None,
        min_new_tokens=settings.min_new_tokens or None,
        max_new_tokens=settings.max_new_tokens,
        no_repeat_ngram_size=settings.no_repeat_ngram or None,
        decoder_start_token_id=config.decoder_start_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        use_cache=True,
    )


@contextlib.contextmanager
def _only(model: Any, search: Any) -> Iterator[None]:
    """Keep the model's own wishes away: transformers fills what a search leaves open from them."""
    own = model.generation_config
    model.generation_config = search
    try:
        yield
    finally:
        model.generation_config = own
