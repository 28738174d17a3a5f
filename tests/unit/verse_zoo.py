"""Small pairs of texts on disk, with a tokenizer that has padding and EOS as T5's has. Nothing is downloaded."""

from __future__ import annotations

import functools
from pathlib import Path

import models_zoo as zoo
from isotone import models
from isotone.config.data import Pairs, Tokens
from isotone.data.document import Document
from isotone.data.splits import SplitWriter
from isotone.data.tokenisation import tokenise
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as pieces
from transformers import PreTrainedTokenizerFast

PREFIX = "modernise: "
PAIRS = [
    ("And the king said unto the people, Go. Return thou before the morning.", "The king told the people: go. Be back before morning."),
    ("Thou walkest beside the river. Sing!", "You walk beside the river. Sing!"),
    ("The word was heard of many. Blessed be it.", "Many heard the word. It is blessed."),
    ("Lo, it came to pass in the valley.", "See, it happened in the valley."),
    ("He spake: I am he. And they fell backward.", "He said: I am he. They fell back."),
    ("Hearken ye unto the sound.", "Listen to the sound."),
]  # fmt: skip


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with ``<pad>`` = 0 and ``</s>`` = 1."""
    plain = Tokenizer(pieces.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=zoo.VOCABULARY,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain.train_from_iterator([text for pair in PAIRS for text in pair], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>")


def write(folder: Path, *, family: str = "t5_gated", seed: int = 1) -> tuple[Path, Path, Path]:
    """``(model, split, documents)``: a random model's folder, a tokenised split and its texts."""
    model, split, documents = folder / "model", folder / "test", folder / "test.parquet"
    models.save_model(zoo.tiny(family, seed=seed), tokenizer(), model)
    writer = SplitWriter(documents, pairs=True)
    for index, (source, target) in enumerate(PAIRS):
        document = Document(f"verse {index}", target, source=source)
        writer.add(document, document.digest)
    writer.close({})
    tokenise(documents, model, split, Tokens(pairs=Pairs(prefix=PREFIX, max_source=64, max_target=64)))
    return model, split, documents
