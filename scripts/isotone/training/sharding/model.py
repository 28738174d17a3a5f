"""A model whose matrices are dealt out over the processes, and how whole tensors travel when they must."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from isotone.config.training import Training
from isotone.models import family_of, head_of
from isotone.training.sharding.reduction import TreeReduceScatter
from isotone.training.sharding.slices import Rows
from isotone.training.sharding.start import Weights
from isotone.training.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Root(nn.Module):
    """A leaf's whole forward pass as one module: FSDP2 gathers weights when a module is called."""

    def __init__(self, model: PreTrainedModel, loss: Callable[..., Tensor]) -> None:
        """Wrap a model and the function that takes its loss."""
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, *arguments: Any) -> Tensor:
        """The loss, as the engine computes it."""
        return self._loss(*arguments)


class Shards:
    """What this process holds of a model: rows of each matrix, and all of each vector.

    Attributes:
        local: its part of every parameter by name; writing to it changes the model.
        rows: which part that is.
    """

    def __init__(self, model: PreTrainedModel, loss: Callable[..., Tensor], training: Training, world: World) -> None:
        """Deal out a model that has no weights yet (`bare_model`); `load` reads them."""
        self.model, self.world = model, world
        named = dict(model.named_parameters())
        self.rows = {
            name: Rows.of(len(value), world.rank, world.size) if value.ndim > 1 else Rows.all(value.numel())
            for name, value in named.items()
        }
        options: dict[str, Any] = {
            "mesh": init_device_mesh(world.device.type, (world.size,)),
            "mp_policy": MixedPrecisionPolicy(cast_forward_inputs=False),
            "ignored_params": {value for value in named.values() if value.ndim < 2},
        }
        for layer in family_of(model).layers(model):
            fully_shard(layer, reshard_after_forward=True, **options)
        embedding = model.get_input_embeddings()
        if embedding.get_parameter("weight") is not head_of(model).weight_VD:  # else it stays, as the head does
            fully_shard(embedding, reshard_after_forward=True, **options)
        self.root: Any = fully_shard(Root(model, loss), reshard_after_forward=False, **options)
        modules: list[Any] = list(cast("nn.Module", self.root).modules())
        for module in modules:
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
                module.set_custom_reduce_scatter(TreeReduceScatter(compress=training.compression == "bf16"))
        self._materialise()
        self.parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
        self.local = {name: _local(value.detach()) for name, value in self.parameters.items()}

    def _materialise(self) -> None:
        """Give every slice memory on the device; buffers keep their values."""
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        self.root.to_empty(device=self.world.device)
        self.model.tie_weights()
        for name, value in self.model.named_buffers():
            value.copy_(buffers[name])

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Read this process's part of a model folder.

        Raises:
            ConfigurationError: if the folder lacks a weight.
        """
        for name, value in self.local.items():
            value.copy_(weights.read(name, self.rows[name]))
        for name, value in self.model.named_buffers():
            if name in weights:
                value.copy_(weights.read(name))

    def part_of(self, weights: Weights) -> dict[str, Tensor]:
        """This process's part of every weight of a folder, in main memory."""
        return {name: weights.read(name, rows) for name, rows in self.rows.items()}

    def take_gradients(self) -> Iterator[tuple[str, Tensor | None]]:
        """The gradients that the last backward pass left, by name; they are forgotten here."""
        for name, value in self.parameters.items():
            yield name, None if value.grad is None else _local(value.grad)
            value.grad = None

    def reshard(self) -> None:
        """Let go of what a forward pass without a backward pass has gathered: it would be used again, out of date."""
        self.root.reshard()

    def to_owners(self, parts: Sequence[tuple[Rows, Tensor]]) -> Tensor | None:
        """Let several processes have one whole tensor each, of which every process holds some rows.

        Args:
            parts: at position r what process r shall have: this process's rows of it, and which ones.

        Returns:
            This process's whole tensor; None if it gets none.
        """
        rank, ranks = self.world.rank, self.world.size
        sent = [value.detach().contiguous().view(-1) for _, value in parts]
        counts, shape = [0] * ranks, [0]
        if rank < len(parts):
            rows, value = parts[rank]
            shape = [rows.size, *value.shape[1:]]
            width = torch.Size(shape[1:]).numel()
            counts = [Rows.of(rows.size, other, ranks).count * width for other in range(ranks)]
        received = sent[0].new_empty(sum(counts))
        dist.all_to_all_single(
            received,
            torch.cat(sent),
            output_split_sizes=counts,
            input_split_sizes=[value.numel() for value in sent] + [0] * (ranks - len(sent)),
        )
        return received.view(shape) if rank < len(parts) else None

    def to_leader(self, name: str) -> Tensor | None:
        """A whole weight, in the first process; None in the others."""
        if self.rows[name].is_whole:
            return self.local[name] if self.world.leads else None
        return self.to_owners([(self.rows[name], self.local[name])])

    def to_all(self, rows: Rows, value: Tensor) -> Tensor:
        """A whole tensor in every process, of which each holds some rows."""
        ranks = self.world.size
        each = Rows.of(rows.size, 0, ranks).count
        padded = value.new_zeros(each, *value.shape[1:])
        padded[: len(value)] = value
        gathered = [torch.empty_like(padded) for _ in range(ranks)]
        dist.all_gather(gathered, padded)
        return torch.cat(gathered)[: rows.size]


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value
