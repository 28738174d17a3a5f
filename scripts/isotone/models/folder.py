"""Model folders: plain Hugging Face format, fp32, safetensors, nothing else.

How a model is loaded is decided here alone. What the study says about it (`Loading`) is written into the folder's
config.json by the step setup, stays there through constraining, training and export, and is read again by every
program that loads the folder.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotone.errors import ConfigurationError, InputOutputError, first_line
from isotone.models.compatible import older_keys
from isotone.models.families import family_of_config
from isotone.models.files import DamagedWeights, check_files
from isotone.models.forward import choose_experts
from isotone.records import whole_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RECORD = "isotone"  # key of config.json that holds the record


@dataclass(frozen=True)
class Loading:
    """How a model is loaded, and where it came from.

    Attributes:
        attention: ``sdpa`` or ``eager``; a family that has only one takes that one (`Family.attention`).
        origin: source, and name, revision or path, for people.
    """

    attention: str = "sdpa"
    origin: Mapping[str, str] = field(default_factory=dict)

    def write(self, config: Any) -> None:
        """Put the record into a configuration, which takes it along wherever it is saved."""
        setattr(config, RECORD, asdict(self))

    @staticmethod
    def of(config: Mapping[str, Any]) -> Loading:
        """The record in a config.json; the defaults where there is none."""
        found = config.get(RECORD)
        if not isinstance(found, Mapping) or found.get("attention") not in ("sdpa", "eager"):
            return Loading()
        return Loading(found["attention"], dict(found.get("origin") or {}))


def attention_of(loading: Loading, config: Any) -> str:
    """The attention that a model really uses: the family's only one, else the record's."""
    family = family_of_config(config)
    return (family.attention if family else "") or loading.attention


def load_model(
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    loading: Loading | None = None,
    trust_remote_code: bool = False,
    where: str = "",
) -> PreTrainedModel:
    """Load a model folder in fp32, in evaluation mode.

    Args:
        device: where the weights go.
        loading: how, for a folder that Isotone did not write; else the folder's own record says it.
        trust_remote_code: run code that comes with the folder where transformers has none for its architecture.
        where: the setting that named the folder, for messages.

    Raises:
        InputOutputError: damaged weights in a folder that no setting names.
        ConfigurationError: no such folder, no safetensors, an unknown architecture, quantised weights, or weights that
            do not fit the configuration.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.utils.logging import disable_progress_bar

    from isotone.models.activations import register

    register()
    disable_progress_bar()
    folder = Path(folder)
    written = _checked(folder, where)
    loading = loading or Loading.of(written)
    options: dict[str, Any] = {
        "local_files_only": True,
        "trust_remote_code": _own_code(written, trust_remote_code, folder, where),
    }
    try:
        config = AutoConfig.from_pretrained(folder, **options)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # OSError is trouble with the disk, and passes
        raise ConfigurationError(
            f"{where}{folder}/config.json describes no model that this version of transformers knows ({first_line(error)}). "
            "Correct its model_type, or name another folder."
        ) from None
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # plain weights beside a method that nobody knows
    loader: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        model, report = loader.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            attn_implementation=attention_of(loading, config),
            output_loading_info=True,
            **options,
        )
    except SafetensorError as error:
        raise _damaged(folder, where, str(error)) from None
    except (ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ConfigurationError(f"{where}{folder} cannot be loaded ({first_line(error)}).") from None
    check_whole(report, f"{where}{folder}")
    loading.write(model.config) if loading.origin or RECORD in written else None
    return choose_experts(model.to(device)).eval()


def _checked(folder: Path, where: str) -> dict[str, Any]:
    try:
        return check_files(folder, where)
    except DamagedWeights as error:
        raise _damaged(folder, where, str(error)) from None


def _damaged(folder: Path, where: str, reason: str) -> ConfigurationError | InputOutputError:
    if where:
        return ConfigurationError(f"{where}{folder} holds damaged weights ({reason}). Copy them again.")
    return InputOutputError(
        f"{folder}: its model.safetensors is damaged ({reason}). Delete the folder, and make or fetch it again."
    )


def _own_code(config: Mapping[str, Any], trusted: bool, folder: Path, where: str) -> bool:
    """Whether the folder's own code runs: only if trusted, and only where transformers has none.

    Raises:
        ConfigurationError: if it would have to run and is not trusted.
    """
    from transformers import CONFIG_MAPPING

    if config.get("model_type") in CONFIG_MAPPING:
        return False
    if not trusted:
        own = " It brings code of its own, which Isotone does not run" if config.get("auto_map") else " It is unknown"
        raise ConfigurationError(
            f"{where}{folder}/config.json has model_type {config.get('model_type')!r}.{own}. If you have read that code and trust "
            "it, write model.trust_remote_code: true."
        )
    return True


def check_whole(report: Mapping[str, Any], where: str) -> None:
    """Insist that no weight was missing: transformers would fill it with random numbers.

    Raises:
        ConfigurationError: listing some of the missing weights.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigurationError(
            f"{where} lacks {len(missing)} weights that its config.json asks for ({', '.join(missing[:3])} ...). "
            "The folder is incomplete, or its files belong to another model; make or fetch it again."
        )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write a plain Hugging Face folder with fp32 safetensors; whole or absent.

    The bytes depend on weights, configuration and tokenizer alone: no path of this machine
    goes into config.json. transformers 4 reads the same function (`isotone.models.compatible`).

    Raises:
        OSError: if it cannot be written.
    """
    import torch
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
        _complete(part, tokenizer)


def _complete(folder: Path, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Add to a configuration what transformers 4 reads, and the tokenizer."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if added := older_keys(config):
        text = json.dumps({**config, **added}, indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def save_architecture(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write what `save_model` writes beside the weights, into a folder that is there.

    Raises:
        OSError: if it cannot be written.
    """
    model.config.name_or_path = ""
    model.config.dtype = "float32"
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    _complete(folder, tokenizer)
