"""Tokenizers: trained on the study's own training split (source: scratch), or loaded from a model folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotone.errors import ConfigurationError, first_line
from isotone.records import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# The automatic class goes by the model's family and would put that family's own rules of splitting
# text (Qwen2's, for one) in place of the ones that tokenizer.json states.
GENERIC_TOKENIZERS = {"TokenizersBackend", "PreTrainedTokenizerFast"}
END, PAD = "<|endoftext|>", "<pad>"


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, context: int, *, pairs: bool = False
) -> PreTrainedTokenizerFast:
    """Learn merges from ``texts``; the same texts give the same tokenizer.

    Every byte is a token, so that any text can be written and read back. The one
    special token ``<|endoftext|>`` (id 0) begins and ends documents.

    Args:
        vocabulary: number of tokens, the 256 bytes and the special token included.
        context: longest sequence of the model, which the tokenizer's file records.
        pairs: for an encoder-decoder model: ``<pad>`` (id 0) begins a decoder's text, ``<|endoftext|>`` (id 1) only ends one.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END] if pairs else [END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        **({"pad_token": PAD} if pairs else {"bos_token": END}),
        eos_token=END,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False, where: str = "") -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder.

    Raises:
        ConfigurationError: if the folder holds none.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = Path(folder)
    settings = folder / "tokenizer_config.json"
    generic = (
        settings.is_file() and (folder / "tokenizer.json").is_file() and _class_named(settings) in GENERIC_TOKENIZERS
    )
    factory: Any = PreTrainedTokenizerFast if generic else AutoTokenizer
    try:
        tokenizer = factory.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raises plain Exception for a broken tokenizer.json
        if isinstance(error, MemoryError):
            raise
        raise ConfigurationError(
            f"{where}{folder} has no tokenizer that transformers can load ({first_line(error)})."
        ) from None
    forget_loading(tokenizer)
    return tokenizer


def _class_named(settings: Path) -> str:
    try:
        return str(read_json(settings).get("tokenizer_class"))
    except ValueError:
        return ""


def forget_loading(tokenizer: PreTrainedTokenizerBase) -> None:
    """Drop how a tokenizer was loaded, which would be saved with it and change its bytes."""
    for trace in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(trace, None)
