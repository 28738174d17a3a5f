"""A model from the hub, at a pinned revision: fetched once, then read from the cache alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from isotone.config.data import Model
from isotone.errors import ConfigurationError
from isotone.hub.network import explain, is_offline, is_transient
from isotone.hub.retries import retry
from isotone.models.files import PICKLES
from isotone.models.origins.local import load_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What a study reads. Pickled weights are not even downloaded.
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


def _check_files(settings: Model, names: list[str]) -> None:
    if any(name.endswith(".safetensors") for name in names):
        return
    endings = tuple(pattern.removeprefix("*") for pattern in PICKLES)
    pickles = [name for name in names if name.endswith(endings)]
    if pickles:
        raise ConfigurationError(
            f"model.name is {settings.name!r} (revision {settings.revision}): it holds its weights only as pickles "
            f"({', '.join(pickles[:3])}), which Isotone never reads. Look for a revision with *.safetensors, or convert "
            "it on a machine that may trust it (from_pretrained, then save_pretrained) and use model.source: local."
        )
    raise ConfigurationError(f"model.name is {settings.name!r} (revision {settings.revision}): it holds no weights.")


def fetch_model(settings: Model) -> Path:
    """Download what is missing in the cache; returns the folder in the cache.

    Raises:
        ConfigurationError: not there, gated, unreachable after all tries, or pickles only.
    """
    from huggingface_hub import HfApi, snapshot_download

    def download() -> Path:
        if not is_offline():
            info = HfApi().model_info(settings.name, revision=settings.revision)
            _check_files(settings, [entry.rfilename for entry in info.siblings or []])
        code = ["*.py"] if settings.trust_remote_code else []
        folder = snapshot_download(settings.name, revision=settings.revision, allow_patterns=WANTED + code)
        return Path(folder)

    try:
        folder = retry(download, f"fetching model {settings.name}", is_transient)
    except ConfigurationError:
        raise
    except Exception as error:  # a broken connection is no OSError in every client
        if not isinstance(error, (OSError, ValueError, RuntimeError)) and not is_transient(error):
            raise
        raise explain(error, "model", settings.name, settings.revision) from None
    _check_files(settings, [path.name for path in folder.iterdir()])
    return folder


def load_hub(settings: Model) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (fp32) and tokenizer from the cache.

    Raises:
        ConfigurationError: if it is not complete there, or as `load_folder`.
    """
    where = f"model.name {settings.name} (revision {settings.revision}): "
    return load_folder(fetch_model(settings), settings, where)
