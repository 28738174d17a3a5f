"""AdamW that carries the constraint.

The model is an ordinary model whose W are ordinary parameters. For each constrained
W the optimizer keeps a latent V with W = f(V), and once per step does
``dV = pull_back(V, dW)``, AdamW on V, ``W <- f(V)``. Forward and backward passes,
compilation and export never see any of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from isotone.config.training import Training

CONSTRAINED, MATRICES, VECTORS = "constrained", "matrices", "vectors"


class WeightMap(Protocol):
    """W = f(V): what `isotone.constraints.weight_maps` gives for each constrained weight."""

    def inverse(self, weight: Tensor) -> Tensor:
        """V for a W in the range of f."""

    def forward(self, latent: Tensor) -> Tensor:
        """W."""

    def pull_back(self, latent: Tensor, grad_weight: Tensor) -> Tensor:
        """dL/dV from dL/dW."""

    def retract(self, latent: Tensor) -> Tensor:
        """V back in its domain after a step (the identity for most maps)."""

    def decayed(self, latent: Tensor, factor: float) -> Tensor:
        """V of ``factor`` W."""

    def learning_rate_scale(self, latent: Tensor) -> float:
        """Factor on the learning rate of V, fixed at the start."""


class Optimizer:
    """Parameters, gradients and moments of one model; gradients lie in one flat buffer."""

    def __init__(
        self, model: nn.Module, maps: Mapping[str, WeightMap], training: Training, *, decay_weight: bool
    ) -> None:
        """Set V to the inverse image of W, and W to f(V).

        Args:
            maps: by parameter name; empty for an unconstrained model.
            decay_weight: weight decay acts on constrained W (on V it never does).
        """
        self.training, self.maps, self.decay_weight = training, dict(maps), decay_weight
        self.parameters = self._trainable(model)
        self.latents = {name: self._latent(name) for name in maps}
        self._values = {name: self.latents.get(name, value) for name, value in self.parameters.items()}
        self.updates = 0
        self.scales = {name: self._scale(name) for name in maps}
        self.flat = self._flat_gradients()
        self.groups: dict[str, list[str]] = {CONSTRAINED: [], MATRICES: [], VECTORS: []}
        for name, value in self.parameters.items():
            self.groups[CONSTRAINED if name in maps else MATRICES if value.ndim > 1 else VECTORS].append(name)
        self._adamw = self._make_adamw()
        self._write_weights()

    def _trainable(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: value for name, value in model.named_parameters() if value.requires_grad}

    def _scale(self, name: str) -> float:
        return float(self.maps[name].learning_rate_scale(self.latents[name]))

    def _latent(self, name: str) -> Tensor:
        with torch.no_grad():
            return self.maps[name].inverse(self.parameters[name].detach()).contiguous().clone()

    def _flat_gradients(self) -> Tensor:
        """One buffer for all gradients; each parameter's ``grad`` is a view of it."""
        values = list(self.parameters.values())
        flat = torch.zeros(sum(value.numel() for value in values), dtype=values[0].dtype, device=values[0].device)
        offset = 0
        for value in values:
            value.grad = flat[offset : offset + value.numel()].view_as(value)
            offset += value.numel()
        return flat

    def _make_adamw(self) -> torch.optim.AdamW:
        groups: list[dict[str, Any]] = [
            {"params": [self.latents[name]], "weight_decay": 0.0, "scale": self.scales[name]}
            for name in self.groups[CONSTRAINED]
        ]
        for group, decay in ((MATRICES, self.training.weight_decay), (VECTORS, 0.0)):
            if names := self.groups[group]:
                groups.append(
                    {"params": [self.parameters[name] for name in names], "weight_decay": decay, "scale": 1.0}
                )
        made = torch.optim.AdamW(
            groups,
            lr=self.training.learning_rate,
            betas=(self.training.beta1, self.training.beta2),
            eps=self.training.epsilon,
            fused=True,
        )
        for value in self.values().values():
            step = torch.zeros((), dtype=torch.float32, device=value.device)
            made.state[value] = {
                "step": step,
                "exp_avg": torch.zeros_like(value),
                "exp_avg_sq": torch.zeros_like(value),
            }
        return made

    def used_groups(self) -> list[str]:
        """The groups that have parameters."""
        return [group for group, names in self.groups.items() if names]

    def values(self) -> dict[str, Tensor]:
        """What is optimized, by parameter name: V where constrained, W elsewhere."""
        return self._values

    @torch.no_grad()
    def finish_gradients(self, factor: float) -> dict[str, float]:
        """Scale the gathered gradients, pull them back to V, and measure them.

        Args:
            factor: 1 / (scored tokens x loss scale).
        Returns:
            The norm of each group's gradient, before clipping; NaN or infinite if a gradient is.
        """
        if factor != 1.0:
            self.flat.mul_(factor)
        for name, latent in self.latents.items():
            grad = self.parameters[name].grad
            latent.grad = self.maps[name].pull_back(latent, grad) if grad is not None else None
        norms = {}
        for group, names in self.groups.items():
            if (norm := self._norm(names)) is not None:
                norms[group] = norm.float()
        if not norms:
            return {}
        return dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True))

    def _norm(self, names: Sequence[str]) -> Tensor | None:
        """The norm of some gradients together; None if there are none."""
        values = self.values()
        grads = [grad for name in names if (grad := values[name].grad) is not None]
        return torch.nn.utils.get_total_norm(grads) if grads else None

    @torch.no_grad()
    def update(self, learning_rate: float, norms: Mapping[str, float]) -> None:
        """Clip each group, take one AdamW step, and set W <- f(V).

        Args:
            norms: as `finish_gradients` measured them.
        """
        values = self.values()
        for group, names in self.groups.items():
            limit = self.training.max_grad_norm
            if limit and norms.get(group, 0.0) > limit:
                for name in names:
                    if (grad := values[name].grad) is not None:
                        grad.mul_(limit / norms[group])
        for entry in self._adamw.param_groups:
            entry["lr"] = learning_rate * entry["scale"]
        self._adamw.step()
        self.updates += 1
        for name, latent in self.latents.items():
            moved = self.maps[name].retract(latent)
            if self.decay_weight and self.training.weight_decay:
                moved = self.maps[name].decayed(moved, 1 - learning_rate * self.training.weight_decay)
            if moved is not latent:
                latent.copy_(moved)
            latent.grad = None
        self._write_weights()

    @torch.no_grad()
    def _write_weights(self) -> None:
        for name, latent in self.latents.items():
            self.parameters[name].copy_(self.maps[name].forward(latent))

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Everything a checkpoint holds, by file and parameter name (live tensors, not copies)."""
        values = self.values()
        moments = self._adamw.state
        return {
            "weights": {name: value.detach() for name, value in values.items()},
            "exp_avg": {name: moments[value]["exp_avg"] for name, value in values.items()},
            "exp_avg_sq": {name: moments[value]["exp_avg_sq"] for name, value in values.items()},
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Mapping[str, Tensor]], *, updates: int, scales: Mapping[str, float]) -> None:
        """Take over the tensors of a checkpoint.

        Raises:
            KeyError, RuntimeError: if names or shapes differ from this model's.
        """
        for kind, tensors in self.state().items():
            for name, tensor in tensors.items():
                tensor.copy_(state[kind][name])
        self.refresh(updates=updates, scales=scales)

    @torch.no_grad()
    def refresh(self, *, updates: int, scales: Mapping[str, float]) -> None:
        """Bring everything in line with tensors that were just overwritten."""
        self.updates = updates
        for value in self.values().values():
            self._adamw.state[value]["step"].fill_(float(updates))
        for name, entry in zip(self.groups[CONSTRAINED], self._adamw.param_groups, strict=False):
            self.scales[name] = entry["scale"] = float(scales[name])
        self._write_weights()

    def release(self) -> None:
        """Give back the memory of V, gradients and moments; no step can follow."""
        for value in self.parameters.values():
            value.grad = None
        self.parameters, self.latents, self._values = {}, {}, {}
        self.flat = self.flat.new_empty(0)
        del self._adamw

    @torch.no_grad()
    def restart(self, weights: Mapping[str, Tensor]) -> None:
        """Go back to the start: these weights, no moments."""
        for name, value in self.parameters.items():
            value.copy_(weights[name])
        for name, latent in self.latents.items():
            latent.copy_(self._latent(name))
        for state in self._adamw.state.values():
            state["exp_avg"].zero_()
            state["exp_avg_sq"].zero_()
        self.refresh(updates=0, scales=self.scales)
