"""The part of a saved tokenizer that splits text, without transformers, which takes seconds to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isotone.errors import ConfigurationError
from isotone.records import digest_of, file_digest, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Splitter:
    """A saved tokenizer, as far as splitting text needs it.

    `setup` has shown that it gives the ids that transformers gives.

    Attributes:
        backend: the tokenizer as JSON.
        vocabulary: one more than the largest id; ids may have holes.
        template: digest of the files that a chat template may stand in.
    """

    backend: str
    vocabulary: int
    bos: int | None
    eos: int
    template: str

    @classmethod
    def open(cls, folder: Path) -> Splitter:
        """Read ``tokenizer.json`` and the names of the special tokens beside it.

        Raises:
            ConfigurationError: if there is no tokenizer.json or no end-of-text token.
        """
        from tokenizers import Tokenizer

        if not (folder / "tokenizer.json").is_file():
            raise ConfigurationError(
                f"{folder} holds no tokenizer.json (a fast tokenizer). Load and save its tokenizer with transformers once."
            )
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = read_json(folder / "tokenizer_config.json")
        ids = {}
        for name in ("bos_token", "eos_token"):
            token = settings.get(name)
            token = token.get("content") if isinstance(token, dict) else token
            ids[name] = tokenizer.token_to_id(token) if token else None
        if ids["eos_token"] is None:
            raise ConfigurationError(f"{folder}: this tokenizer has no end-of-text token, which joins documents.")
        files = [path for name in ("chat_template.jinja", "tokenizer_config.json") if (path := folder / name).is_file()]
        return cls(
            backend=tokenizer.to_str(),
            vocabulary=1 + max(tokenizer.get_vocab(with_added_tokens=True).values()),
            bos=ids["bos_token"],
            eos=ids["eos_token"],
            template=digest_of([file_digest(path) for path in files]),
        )


def text_encoder(source: Path) -> Tokenizer:
    """A tokenizer that takes a text as text: no special tokens, whatever it spells, no truncation."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer
