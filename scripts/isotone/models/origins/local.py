"""A model in a local folder in Hugging Face format; safetensors only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from isotone.config.data import Model
from isotone.data.tokenizer import load_tokenizer
from isotone.models.folder import Loading, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WHERE = "model.path: "


def origin_of(settings: Model) -> dict[str, str]:
    """Where a model comes from, in words that hold on another machine: no path of a folder."""
    known = {"source": settings.source, "name": settings.name, "revision": settings.revision}
    if settings.path:
        known["path"] = settings.path if settings.path.startswith("package:") else Path(settings.path).name
    return {key: value for key, value in known.items() if value}


def load_folder(folder: Path, settings: Model, where: str = WHERE) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (fp32) and tokenizer from a folder that Isotone did not write, loaded as the settings say.

    Raises:
        ConfigurationError: as `load_model` and `load_tokenizer`.
    """
    model = load_model(
        folder,
        loading=Loading(settings.attention, origin_of(settings)),
        trust_remote_code=settings.trust_remote_code,
        where=where,
    )
    return model, load_tokenizer(folder, trust_remote_code=settings.trust_remote_code, where=where)
