"""Activations at chosen modules, on calibration text.

Shape suffixes: B = sequences, T = positions, N = tokens, I = inputs, O = outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from isotone.data.batch import Batch
from isotone.models.forward import hidden_states
from isotone.tasks import rows_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = 8  # sequences per forward pass


class _Enough(Exception):
    """Raised inside a forward pass once every wanted module has run."""


@dataclass(frozen=True)
class Seen:
    """What one module read and wrote, one row per token: inputs [N, I], outputs [N, O]."""

    inputs_NI: Tensor
    outputs_NO: Tensor


def calibration_blocks(split_folder: Path, tokens: int, length: int) -> tuple[Tensor | Batch, Tensor]:
    """Evenly spaced rows of a tokenised split, at least ``tokens`` tokens where it has so many.

    The choice depends on nothing but the split and the two numbers.

    Returns:
        ``(inputs_BT, targets_BT)``; of pairs the whole batch as inputs. Targets are -100 where nothing is scored.
    """
    blocks = rows_of(Path(split_folder), length)
    count = min(len(blocks), -(-tokens // length))
    batch = blocks.batch(np.linspace(0, len(blocks) - 1, count).round().astype(np.int64))
    return (batch.inputs_BT if batch.source_BS is None else batch), batch.targets_BT


def calibration_ids(split_folder: Path, tokens: int, length: int) -> Tensor | Batch:
    """The inputs of `calibration_blocks`: token ids [B, T], or a batch of pairs."""
    return calibration_blocks(split_folder, tokens, length)[0]


def run_text(model: nn.Module, ids_BT: Tensor | Batch) -> None:
    """One forward pass up to the vocabulary projection; encoder-decoder models read a plain text on both sides."""
    config: Any = model.config
    if isinstance(ids_BT, Batch):
        hidden_states(cast("PreTrainedModel", model), ids_BT)
        return
    body: Any = model.base_model
    if config.is_encoder_decoder:
        body(input_ids=ids_BT, decoder_input_ids=ids_BT, use_cache=False)
    else:
        body(input_ids=ids_BT, use_cache=False)


@contextmanager
def _watching(
    model: nn.Module, names: Sequence[str], seen: dict[str, list[tuple[Tensor, Tensor]]], outputs: bool
) -> Iterator[None]:
    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def record(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            written = output.detach().flatten(0, -2) if outputs else output.new_empty(0, output.shape[-1])
            seen[name].append((inputs[0].detach().flatten(0, -2), written))
            if all(len(rows) >= len(seen[name]) for rows in seen.values()):
                raise _Enough

        return record

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def capture(model: nn.Module, ids_BT: Tensor | Batch, names: Sequence[str], *, outputs: bool = True) -> dict[str, Seen]:
    """Inputs and outputs of the named modules on every token of ``ids_BT``, in the order of the tokens.

    Each forward pass ends as soon as the last of the modules has run. Without ``outputs`` only inputs are kept.
    """
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    device = next(model.parameters()).device
    with _watching(model, names, seen, outputs):
        for rows_BT in ids_BT.split(ROWS):
            try:
                run_text(model, rows_BT.to(device))
            except _Enough:
                continue
    return {
        name: Seen(torch.cat([pair[0] for pair in rows]), torch.cat([pair[1] for pair in rows]))
        for name, rows in seen.items()
    }
