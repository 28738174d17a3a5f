"""A model folder before anything in it is loaded: are its files whole, safe to read, and one another's? No torch."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isotone.errors import ConfigurationError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
INDEX = "model.safetensors.index.json"
LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks?)\.(\d+)\.")
FLOATS = {"F64", "F32", "F16", "BF16"}
# Methods whose weights are no plain matrices, whatever their type.
QUANTISED = {"awq", "bitsandbytes", "gptq", "fp8", "compressed-tensors", "aqlm", "quanto", "eetq", "hqq", "higgs", "vptq", "torchao", "mxfp4", "auto-round", "bitnet", "spqr", "fbgemm_fp8", "fp_quant"}  # fmt: skip


class DamagedWeights(ConfigurationError):
    """A weight file that is not what it says."""


def read_config(folder: Path, where: str = "model.path: ") -> dict[str, Any]:
    """config.json of a model folder.

    Args:
        where: what the message begins with.

    Raises:
        ConfigurationError: if it is not there or is no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigurationError(
            f"{where}{folder} is not a model folder: there is no config.json there. Name a folder in Hugging Face format, which "
            "holds config.json and *.safetensors."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{where}{path} cannot be read ({error}). It was cut short or changed; copy it again."
        ) from None
    if not isinstance(config, dict):
        raise ConfigurationError(f"{where}{path} holds no JSON object. Copy it again.")
    return config


def check_files(folder: Path, where: str = "model.path: ") -> dict[str, Any]:
    """Refuse a folder whose weights are missing, cut short, quantised, pickled, or more than config.json names.

    Returns:
        config.json.

    Raises:
        ConfigurationError: one paragraph that says which file and what to do.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            f'{where}"{folder}" is no folder: there is no config.json there. Give a folder in Hugging Face format.'
        )
    config = read_config(folder, where)
    method = str((config.get("quantization_config") or {}).get("quant_method", ""))
    if method in QUANTISED:
        raise ConfigurationError(
            f"{where}{folder} holds quantised weights ({method}). Isotone constrains and trains plain matrices: name the "
            "model from which these were made, or dequantise them and save the result."
        )
    types: dict[str, str] = {}
    for path in _weight_files(folder, where):
        types |= _header(path, where)
    odd = sorted(name for name, kind in types.items() if kind not in FLOATS and name.endswith("weight"))
    if odd:
        raise ConfigurationError(
            f"{where}{folder} holds weights of type {types[odd[0]]} ({', '.join(odd[:2])} ...), which are quantised. Name the "
            "model from which these were made, or dequantise them and save the result."
        )
    _check_layers(config, types, f"{where}{folder}")
    return config


def _weight_files(folder: Path, where: str) -> list[Path]:
    """The files that hold the weights, in transformers' order of preference."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ConfigurationError(f"{where}{folder / INDEX} cannot be read ({error}). Copy it again.") from None
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise ConfigurationError(
                f"{where}{folder / INDEX} names {', '.join(absent[:3])}, which is not there. The folder is incomplete: copy or "
                "fetch the missing files."
            )
        return [folder / name for name in names]
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if any(name.startswith("adapter_") for name in found) or (folder / "adapter_config.json").is_file():
        raise ConfigurationError(
            f"{where}{folder} holds an adapter (adapter_config.json), not a model. Merge it into its base model "
            "(peft: merge_and_unload, then save_pretrained) and name that folder."
        )
    if found:
        raise ConfigurationError(
            f"{where}{folder} holds {', '.join(found[:3])}, but neither model.safetensors nor {INDEX}, which says what lies in "
            "which of several files. Copy the missing one."
        )
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ConfigurationError(
            f"{where}{folder} holds its weights only as pickles ({', '.join(pickles[:3])}), which can run any code when they are "
            "read; Isotone reads no pickles, ever. If you trust their origin, convert them once: "
            'python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{folder}').save_pretrained('NEW')\", copy the tokenizer's files beside them, "
            "and set model.path to NEW."
        )
    raise ConfigurationError(
        f"{where}{folder} holds no weights (*.safetensors). Copy or fetch them, or name another folder."
    )


def _header(path: Path, where: str) -> dict[str, str]:
    """Name and type of every tensor in a safetensors file.

    Raises:
        ConfigurationError: if the file is no such file, or shorter than its header says.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(64)
        if start.startswith(b"version https://git-lfs"):
            raise ConfigurationError(
                f"{where}{path} is a pointer of Git LFS, not the weights. Run git lfs pull in that folder."
            )
        length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else -1
        if not 0 <= length <= size - 8:
            raise DamagedWeights(
                f"{where}{path} holds damaged weights: it is {size} bytes long, shorter than it says. Copy it again."
            )
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            tensors = {name: value for name, value in header.items() if name != "__metadata__"}
            end = max((value["data_offsets"][1] for value in tensors.values()), default=0)
            types = {name: str(value["dtype"]) for name, value in tensors.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DamagedWeights(
                f"{where}{path} holds damaged weights: its header is no safetensors header. Copy it again."
            ) from None
    if 8 + length + end != size:
        raise DamagedWeights(
            f"{where}{path} holds damaged weights: it is {size} bytes long and should have {8 + length + end}. Copy it again."
        )
    return types


def _check_layers(config: Mapping[str, Any], types: Mapping[str, str], where: str) -> None:
    named = max((config[key] for key in LAYER_KEYS if isinstance(config.get(key), int)), default=None)
    there = {int(found[1]) for name in types if (found := LAYER.search(name))}
    if named is not None and there and max(there) >= named:
        raise ConfigurationError(
            f"{where}: the weights have {max(there) + 1} layers, but config.json names {named}. They belong to different models, or "
            "one of them was changed; a model cut to its first layers would be scored as if it were whole."
        )
