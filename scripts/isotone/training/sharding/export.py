"""Writing a sharded model as an ordinary model folder, one tensor at a time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import Tensor

from isotone.models.folder import save_architecture
from isotone.records import whole_folder
from isotone.training.sharding.model import Shards
from isotone.training.sharding.start import stored_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}


def export(shards: Shards, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write the very bytes that `isotone.models.save_model` writes for the whole model.

    All processes call it; the first one writes, and holds one tensor at a time.

    Raises:
        OSError: in the first process, if it cannot be written; the others have done their part by then.
    """
    tensors = _tensors(shards)
    if not shards.world.leads:
        for _, name in tensors:
            _whole(shards, name)
        return
    trouble, done = None, 0
    try:
        with whole_folder(folder) as part:
            save_architecture(shards.model, tokenizer, part)
            with open(part / "model.safetensors", "wb") as file:
                done = _write(file, shards, tensors)
    except OSError as error:
        trouble, done = error, getattr(error, "tensors_done", done)
    for _, name in tensors[done:]:  # the others go on sending
        _whole(shards, name)
    if trouble is not None:
        raise trouble


def _tensors(shards: Shards) -> list[tuple[str, str]]:
    """``(stored name, name)`` in the order of the file: larger types first, then by name."""
    stored = stored_names(shards.model)
    state = shards.model.state_dict()
    unique = [*shards.local, *(name for name, _ in shards.model.named_buffers() if name in state)]
    return sorted(((stored[name], name) for name in unique), key=lambda pair: (-state[pair[1]].element_size(), pair[0]))


def _whole(shards: Shards, name: str) -> Tensor | None:
    if name in shards.local:
        return shards.to_leader(name)
    return shards.model.get_buffer(name)


def _write(file: BinaryIO, shards: Shards, tensors: list[tuple[str, str]]) -> int:
    done = 0
    try:
        file.write(_header(shards, tensors))
        for _, name in tensors:
            value = _whole(shards, name)
            done += 1
            if value is not None:
                file.write(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        error.tensors_done = done  # type: ignore[attr-defined]
        raise
    return done


def _header(shards: Shards, tensors: list[tuple[str, str]]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset, state = 0, shards.model.state_dict()
    for stored, name in tensors:
        value = state[name]
        size = value.numel() * value.element_size()
        entries[stored] = {
            "dtype": _NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
