"""Model folders: plain Hugging Face format, fp32, safetensors, nothing else."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from isotone.errors import ConfigurationError, InputOutputError
from isotone.records import read_json, whole_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The automatic class goes by the model's family and would put that family's own rules of splitting
# text (Qwen2's, for one) in place of the ones that tokenizer.json states.
GENERIC_TOKENIZERS = {"TokenizersBackend", "PreTrainedTokenizerFast"}


def load_model(
    folder: Path, *, attention: str = "sdpa", device: str | torch.device = "cpu", trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load a model folder in fp32, in evaluation mode.

    Args:
        attention: ``sdpa`` or ``eager``.
        device: where the weights go.

    Raises:
        InputOutputError: damaged weights.
        ConfigurationError: no such folder, no safetensors, an unknown architecture, or weights that do not fit
            the configuration.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.utils.logging import disable_progress_bar

    from isotone.models.activations import register

    register()
    disable_progress_bar()
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ConfigurationError(f"{folder} is not a model folder: it has no config.json. Name a Hugging Face folder.")
    if not any(folder.glob("*.safetensors")):
        others = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "no weights at all"
        raise ConfigurationError(
            f"{folder} has no *.safetensors file (found: {others}). Isotone reads no pickles; "
            "convert the weights first."
        )
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
    except (ValueError, KeyError) as error:  # OSError is trouble with the disk, and passes
        raise ConfigurationError(
            f"{folder}/config.json describes no model that this version of transformers knows ({error}). "
            "Correct its model_type, or name another folder."
        ) from None
    factory = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    loader: Any = factory
    try:
        model, report = loader.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            attn_implementation=attention,
            output_loading_info=True,
            **options,
        )
    except SafetensorError as error:
        raise InputOutputError(
            f"{folder}: its model.safetensors is damaged ({error}). Delete the folder, and make or fetch it again."
        ) from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigurationError(
            f"{folder} lacks {len(missing)} weights that its config.json asks for ({', '.join(missing[:3])} ...). "
            "The folder is incomplete; make or fetch it again."
        )
    return model.to(device).eval()


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder.

    Raises:
        ConfigurationError: if the folder holds none.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    settings = Path(folder) / "tokenizer_config.json"
    generic = settings.is_file() and read_json(settings).get("tokenizer_class") in GENERIC_TOKENIZERS
    factory: Any = PreTrainedTokenizerFast if generic else AutoTokenizer
    try:
        tokenizer = factory.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{folder} has no tokenizer that transformers can load ({error}).") from None
    for trace in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(trace, None)  # how it was loaded; would be saved and change the bytes
    return tokenizer


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write a plain Hugging Face folder with fp32 safetensors; whole or absent.

    The bytes depend on weights, configuration and tokenizer alone: no path of this machine
    goes into config.json.

    Raises:
        OSError: if it cannot be written.
    """
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar

    if any(value.dtype != torch.float32 for value in model.parameters()):
        model = copy.deepcopy(model).float()
    model.config.name_or_path = ""
    disable_progress_bar()
    with whole_folder(folder) as part:
        try:
            model.save_pretrained(part)
        except SafetensorError as error:  # a full disk is told in words only
            if found := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(found[1]), os.strerror(int(found[1])), str(folder)) from None
            raise
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
