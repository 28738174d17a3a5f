"""Models: from the hub, a local folder, a GGUF file, or defined here and not yet trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from isotone.config.data import Model, user_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def open_model(
    settings: Model, *, documents: Path | None = None, seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The configured model in fp32 and evaluation mode, and its tokenizer.

    Args:
        documents: the training split's documents, on which a scratch tokenizer is trained.
        seed: initial weights of a scratch model.

    Raises:
        ConfigurationError: if it is not there, needs a token, holds only pickles, or needs remote code.
    """
    if settings.source == "scratch":
        from isotone.models.folder import Loading
        from isotone.models.origins.scratch import new_model

        if documents is None:
            raise ValueError("a scratch model needs documents to train its tokenizer on")
        model, tokenizer = new_model(settings.architecture, documents, seed, settings.attention)
        if settings.attention != "sdpa":
            Loading(settings.attention, {"source": "scratch"}).write(model.config)
    elif settings.source == "hub":
        from isotone.models.origins.hub import load_hub

        model, tokenizer = load_hub(settings)
    elif settings.source == "gguf":
        from isotone.models.origins.gguf import load_gguf

        model, tokenizer = load_gguf(settings)
    else:
        from isotone.models.origins.local import load_folder

        model, tokenizer = load_folder(user_path(settings.path), settings)
    return model.eval(), tokenizer
