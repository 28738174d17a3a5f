"""Reading a model folder slice by slice: the architecture without weights, and the weights without a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isotone.errors import ConfigurationError, InputOutputError
from isotone.models.activations import register
from isotone.models.files import read_config
from isotone.models.folder import Loading, attention_of
from isotone.records import read_json
from isotone.training.sharding.slices import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Weights:
    """The tensors of a model folder, by name; read when asked for."""

    def __init__(self, folder: Path, stored: Mapping[str, str]) -> None:
        """Find out which file holds what.

        Args:
            stored: under which name a folder stores a tensor, as `stored_names` tells it.

        Raises:
            InputOutputError: if a file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        self.folder, self._stored = Path(folder), stored
        index = self.folder / "model.safetensors.index.json"
        files = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
        self._open: dict[str, Any] = {}
        try:
            for name in files:
                file = safe_open(self.folder / name, framework="pt")
                self._open.update(dict.fromkeys(file.keys(), file))
        except (SafetensorError, OSError) as error:
            raise InputOutputError(
                f"{self.folder}: its weights cannot be read ({error}). Delete the folder, and make or fetch it again."
            ) from None

    def __contains__(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return self._stored.get(name, name) in self._open

    def read(self, name: str, rows: Rows | None = None) -> Tensor:
        """A tensor, or rows of it, in fp32, in main memory.

        Raises:
            ConfigurationError: if the folder does not hold it.
        """
        name = self._stored.get(name, name)
        if name not in self._open:
            raise ConfigurationError(
                f"{self.folder} has no tensor {name}, so its weights cannot be read in slices. Set operation.sharding: none."
            )
        if rows is None or rows.is_whole:
            return self._open[name].get_tensor(name).float()
        found = self._open[name].get_slice(name)
        if not rows.count:
            return torch.empty(0, *found.get_shape()[1:])
        return found[rows.start : rows.stop].float().contiguous()


def bare_model(folder: Path) -> PreTrainedModel:
    """The architecture of a model folder: parameters on the meta device, buffers as the architecture makes them.

    Raises:
        ConfigurationError: for encoder-decoder models.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    register()
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.is_encoder_decoder:
        raise ConfigurationError(
            f"{folder} is an encoder-decoder model, which is not sharded. Set operation.sharding: none."
        )
    with init_empty_weights(include_buffers=False):
        attention = attention_of(Loading.of(read_config(folder)), config)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    model.tie_weights()
    return model.eval()


def stored_names(model: PreTrainedModel) -> dict[str, str]:
    """Under which name a model folder stores each parameter and buffer (older names of a family live on there).

    Raises:
        ConfigurationError: if a family stores anything but its tensors as they are.
    """
    from transformers.core_model_loading import revert_weight_conversion

    names = list(model.state_dict())
    marked = revert_weight_conversion(model, {name: torch.tensor([index]) for index, name in enumerate(names)})
    found = {names[int(value)]: stored for stored, value in marked.items() if value.numel() == 1}
    if len(found) != len(names):
        raise ConfigurationError(
            f"{model.config.model_type} models are stored in another form than they are trained in, so they are not "
            "sharded. Set operation.sharding: none."
        )
    return found
