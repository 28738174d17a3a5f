"""One leaf forward and backward: precision, dropout seeds, memory errors."""

# Shape suffixes: B = sequences of a leaf, T = tokens, D = width.

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isotone.config.training import Training
from isotone.data.batch import Batch
from isotone.data.sample_order import mix
from isotone.devices import choose_precision
from isotone.errors import ConfigurationError
from isotone.models import family_of, head_of, hidden_states
from isotone.models.loss import Teacher, summed_loss
from isotone.records import Json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
GROW_AFTER = 2000  # good steps before the loss scale doubles
FIRST_SCALE = 2.0**16


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory, on the device or off it, was not enough."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def recompute_activations(model: PreTrainedModel) -> None:
    """Keep no activations inside layers; the backward pass computes them again."""
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # the name from transformers 5.20 on; the old one warns
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(options)


class LossScale:
    """Keeps fp16 gradients within range; 1 for every other type."""

    def __init__(self, active: bool) -> None:
        """Start at 65536 if ``active``."""
        self.active = active
        self.value = FIRST_SCALE if active else 1.0
        self.good = 0

    def overflow(self) -> bool:
        """A gradient was not finite: halve; False if that cannot be the reason."""
        if not self.active or self.value <= 1.0:
            return False
        self.value /= 2
        self.good = 0
        return True

    def state(self) -> Json:
        """Plain data for the checkpoint."""
        return {"value": self.value, "good": self.good}

    def load(self, state: Json) -> None:
        """Take over a checkpoint's state; an empty one is the beginning."""
        self.value = float(state.get("value", FIRST_SCALE if self.active else 1.0))
        self.good = int(state.get("good", 0))

    def succeed(self) -> None:
        """A step was good; grow after many."""
        self.good += 1
        if self.active and self.good >= GROW_AFTER:
            self.value, self.good = self.value * 2, 0


class Engine:
    """The model as a function from a leaf to a loss, with gradients added to the parameters."""

    keeps_casts = True  # autocast's copies of weights live as long as a forward pass

    def __init__(
        self, model: PreTrainedModel, training: Training, device: torch.device, teacher: PreTrainedModel | None
    ) -> None:
        """Prepare the model for training on ``device``."""
        self.model, self.training, self.device, self.teacher = model, training, device, teacher
        self.loss: Callable[..., Tensor] = self._loss  # a sharded model puts a module around it
        self.precision = choose_precision(training.precision, device)
        if model.config.is_encoder_decoder and self.precision == "fp16":  # in which T5 overflows
            self.precision = "fp32"
        self.scale = LossScale(self.precision == "fp16")
        self.scaled_tokens = 2.0 ** round(
            torch.log2(torch.tensor(float(training.global_batch * training.length))).item()
        )
        self.model.config.use_cache = False
        if training.gradient_checkpointing:
            recompute_activations(model)
        if training.compile and device.type == "cuda":
            for layer in family_of(model).layers(model):
                layer.compile()
        if teacher is not None and _vocabulary(teacher) != _vocabulary(model):
            raise ConfigurationError(
                f"The teacher knows {_vocabulary(teacher)} tokens, the model {_vocabulary(model)}. Distillation needs "
                "the same tokenizer; name another --teacher or set training.distillation.alpha: 0."
            )

    @property
    def loss_scale(self) -> float:
        """What gradients are multiplied with, besides the sum over tokens."""
        return self.scale.value / self.scaled_tokens

    def _hidden(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        dtype = _DTYPES.get(self.precision)
        context: Any = contextlib.nullcontext()
        if dtype:
            context = torch.autocast(self.device.type, dtype, cache_enabled=self.keeps_casts)
        with context:
            hidden_BTD = hidden_states(model, batch)
        return hidden_BTD.flatten(0, 1).to(dtype or hidden_BTD.dtype)

    def _loss(self, batch: Batch, teacher: PreTrainedModel | None) -> Tensor:
        guide = None
        if teacher is not None:
            with torch.no_grad():
                settings = self.training.distillation
                guide = Teacher(self._hidden(teacher, batch), head_of(teacher), settings.alpha, settings.temperature)
        return summed_loss(
            self._hidden(self.model, batch), head_of(self.model), batch.targets_BT.flatten(), teacher=guide
        )

    def train(self, batch: Batch, *, seed: int, step: int, micro_batch: int) -> Tensor:
        """Add one micro-batch's gradient, times `loss_scale`; returns its summed loss (a scalar on the device)."""
        self.model.train()
        torch.manual_seed(
            mix(mix(seed) ^ mix(step) ^ micro_batch) >> 1
        )  # dropout depends on the position, not on the past
        loss = self.loss(batch, self.teacher)
        (loss * self.loss_scale).backward()
        return loss.detach()

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """Summed negative log-likelihood of a batch."""
        self.model.eval()
        return self.loss(batch, None)


def _vocabulary(model: PreTrainedModel) -> int:
    return len(head_of(model).weight_VD)
