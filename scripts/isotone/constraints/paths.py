"""A feed-forward net as a function on its own, in fp64, in the coordinates of its cone.

Shape suffixes: N = samples, D = width (or centred coordinates, one less), F = hidden units.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isotone.constraints.coordinates import Coordinates, into_centred
from isotone.models.activations import NON_DECREASING, SHAPES, MonotoneActivation, base_name
from isotone.models.parts import Projection, Sublayer


@dataclass(frozen=True)
class Path:
    """What lies between the norm's output and the residual stream.

    Attributes:
        entrances: weight [F, D] and bias [F] of each branch; one, or gate and up.
        exit: weight [D, F] and bias [D].
        activation: the activation module in fp64.
        activation_name: its name in transformers.
        centred: whether inputs and outputs are seen in centred coordinates.
    """

    entrances: tuple[tuple[Tensor, Tensor], ...]
    exit: tuple[Tensor, Tensor]
    activation: nn.Module
    activation_name: str
    centred: bool

    @property
    def gated(self) -> bool:
        """Whether two branches are multiplied."""
        return len(self.entrances) == 2

    def pre_activations(self, x_ND: Tensor) -> tuple[Tensor, ...]:
        """What enters the activation (and, gated, what multiplies it): [N, F] each."""
        return tuple(x_ND @ weight_FD.T + bias_F for weight_FD, bias_F in self.entrances)

    def slopes(self, z_NF: Tensor) -> tuple[Tensor, Tensor]:
        """``s(z)`` and ``s'(z)``, elementwise."""
        with torch.enable_grad():
            z_NF = z_NF.detach().requires_grad_()
            value = self.activation(z_NF)
            (slope,) = torch.autograd.grad(value.sum(), z_NF)
        return value.detach(), slope

    def unit_slopes(self, x_ND: Tensor) -> list[Tensor]:
        """Derivative of each hidden unit with respect to each of its pre-activations: [N, F] each."""
        branches = self.pre_activations(x_ND)
        value, slope = self.slopes(branches[0])
        return [slope * branches[1], value] if self.gated else [slope]

    def __call__(self, x_ND: Tensor) -> Tensor:
        """The net's output [N, D]."""
        branches = self.pre_activations(x_ND)
        hidden = self.activation(branches[0])
        hidden = hidden * branches[1] if self.gated else hidden
        weight_DF, bias_D = self.exit
        return hidden @ weight_DF.T + bias_D

    def into(self, x_ND: Tensor) -> Tensor:
        """Vectors of the model's width in this path's coordinates."""
        return into_centred(x_ND) if self.centred else x_ND

    @property
    def non_decreasing(self) -> bool:
        """Whether the activation never falls; unknown activations count as falling."""
        name = base_name(self.activation_name)
        if isinstance(self.activation, MonotoneActivation):
            return float(self.activation.floor) >= SHAPES[name].turn
        return name in NON_DECREASING


def _weight(projection: Projection, expert: int) -> Tensor:
    weight_OI = projection.weight_OI
    return (weight_OI[expert] if projection.stacked else weight_OI).double()


def _bias(projection: Projection) -> Tensor:
    if projection.bias is not None:
        return projection.bias.detach().double()
    return projection.weight_OI.new_zeros(projection.weight_OI.shape[-2], dtype=torch.float64)


@torch.no_grad()
def path_of(model: nn.Module, sublayer: Sublayer, activation_name: str, cone: str, expert: int = 0) -> Path:
    """The path of a sublayer, or of one of its experts, with the weights that the model really uses.

    Under the strict cone the part of the weights outside the centred space is kept out:
    it is zero in a started model, which the certificate checks by the weights' round trip.
    """
    centred = cone == "strict"
    inputs, outputs = Coordinates("inputs" if centred else ""), Coordinates("outputs" if centred else "")
    exit_bias = _bias(sublayer.exit)
    return Path(
        entrances=tuple(
            (inputs.read(_weight(projection, expert)), _bias(projection)) for projection in sublayer.entrances
        ),
        exit=(outputs.read(_weight(sublayer.exit, expert)), into_centred(exit_bias) if centred else exit_bias),
        activation=copy.deepcopy(model.get_submodule(sublayer.activation_name)).double(),
        activation_name=activation_name,
        centred=centred,
    )


def lowest_pre_activations(sublayer: Sublayer, centring: bool, expert: int = 0) -> tuple[Tensor, ...]:
    """The least value that each branch's pre-activation can take, whatever the text: [F] each.

    A norm's output before its gain has length at most sqrt(d), so ``w.x + b`` is at least
    ``b + w.beta - sqrt(d) |w * g|``; a centring norm leaves only the part of ``w * g`` that sums to zero.
    """
    gain, shift = sublayer.gain, sublayer.shift
    lowest = []
    for projection in sublayer.entrances:
        weight_FD = _weight(projection, expert)
        offset_F = _bias(projection)
        if shift is not None:
            offset_F = offset_F + weight_FD @ shift.detach().double()
        if gain is not None:
            weight_FD = weight_FD * gain.double()
        if centring:
            weight_FD = weight_FD - weight_FD.mean(1, keepdim=True)
        lowest.append(offset_F - math.sqrt(weight_FD.shape[1]) * weight_FD.norm(dim=1))
    return tuple(lowest)


def ordered_pairs(path: Path, x_ND: Tensor, generator: torch.Generator, *, far: bool) -> tuple[Tensor, Tensor]:
    """Pairs x <= x' in the path's coordinates, with small and large steps.

    Args:
        x_ND: inputs on real text; the lower point of each pair.
        far: push the lower points down along all coordinates at once, where pre-activations of
            non-negative weights turn negative; text alone rarely gets there.
    """
    low_ND = path.into(x_ND.double())
    spread = low_ND.std()

    def size() -> Tensor:
        drawn_N1 = torch.rand(len(low_ND), 1, generator=generator, dtype=torch.float64)
        return (10 ** (-2 * drawn_N1)).to(low_ND.device) * spread

    if far:
        low_ND = low_ND - size()
    step_ND = torch.randn(low_ND.shape, generator=generator, dtype=torch.float64).abs()
    kept_ND = torch.rand(low_ND.shape, generator=generator) < torch.rand(len(low_ND), 1, generator=generator)
    return low_ND, low_ND + size() * (step_ND * kept_ND).to(low_ND.device)
