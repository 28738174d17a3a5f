"""A model in a local folder in Hugging Face format; safetensors only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotone.config.data import Model
from isotone.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")


def check_folder(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Refuse a folder that cannot be loaded safely, before anything in it is read.

    Raises:
        ConfigurationError: missing, no weights, weights only as pickles, or code of its own.
    """
    if not folder.is_dir():
        raise ConfigurationError(f'model.path is "{folder}", which is no folder. Give a folder in Hugging Face format.')
    if not (folder / "config.json").is_file():
        raise ConfigurationError(
            f"model.path: {folder} holds no config.json, so it is no model in Hugging Face format."
        )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickles:
            raise ConfigurationError(
                f"model.path: {folder} holds its weights only as pickles ({', '.join(pickles[:3])}), which can run any "
                "code when they are read, and Isotone never reads them. If you trust their origin, convert them once: "
                'python -c "from transformers import AutoModelForCausalLM as M; '
                f"M.from_pretrained('{folder}').save_pretrained('NEW')\", copy the tokenizer's files beside them, "
                "and set model.path to NEW."
            )
        raise ConfigurationError(f"model.path: {folder} holds no weights (*.safetensors).")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigurationError(f"model.path: {folder / 'config.json'} cannot be read ({error}).") from None
    _check_code(config, f"model.path: {folder}", trust_remote_code)


def _check_code(config: dict[str, Any], where: str, trusted: bool) -> None:
    from transformers import CONFIG_MAPPING

    if not trusted and config.get("model_type") not in CONFIG_MAPPING:
        own = " It brings code of its own, which Isotone does not run" if config.get("auto_map") else " It is unknown"
        raise ConfigurationError(
            f"{where} has model_type {config.get('model_type')!r}.{own}. If you have read that code and trust it, "
            "write model.trust_remote_code: true."
        )


def load_folder(folder: Path, settings: Model, **where: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (fp32) and tokenizer from a folder.

    Raises:
        ConfigurationError: as `check_folder`, or if the files are damaged.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    check_folder(folder, trust_remote_code=settings.trust_remote_code)
    options = {"trust_remote_code": settings.trust_remote_code, "local_files_only": True}
    loader: Any = AutoModelForCausalLM  # its annotations know nothing of the loading report
    try:
        model, notes = loader.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            attn_implementation=settings.attention,
            output_loading_info=True,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ConfigurationError(f"model.path: {folder} cannot be loaded ({_first_line(error)}).") from None
    except Exception as error:  # safetensors raises its own type for a cut-off file
        if type(error).__name__ != "SafetensorError":
            raise
        raise ConfigurationError(f"model.path: {folder} holds damaged weights ({error}). Copy them again.") from None
    check_whole(notes, str(folder))
    forget_loading(tokenizer)
    return model, tokenizer


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_whole(notes: Any, where: str) -> None:
    """Insist that no weight was missing: transformers would fill it with random numbers.

    Raises:
        ConfigurationError: listing some of the missing weights.
    """
    missing = sorted(notes["missing_keys"])
    if missing:
        raise ConfigurationError(
            f"{where} lacks {len(missing)} weights that its configuration names ({', '.join(missing[:3])} ...). "
            "The files are incomplete, or belong to another model."
        )


def forget_loading(tokenizer: PreTrainedTokenizerBase) -> None:
    """Drop how a tokenizer was loaded, which would be saved with it and change its bytes."""
    for trace in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(trace, None)
