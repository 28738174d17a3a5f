"""Where each architecture family keeps its feed-forward weights, by role.

One table row per family. A role is what a matrix does (``ffn_in``, ``ffn_gate``,
``ffn_up``, ``ffn_out``, ``attention_out``), never a piece of its name: the same
substring means different things in different families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from isotone.errors import ConfigurationError

PLAIN = {"ffn_in", "ffn_out"}
GATED = {"ffn_gate", "ffn_up", "ffn_out"}


@dataclass(frozen=True)
class Projection:
    """One linear map of the model: ``y = W x + b`` with W of shape [out, in].

    Attributes:
        role: what it does, see the module's text.
        layer: index of its block, counted over all stacks.
        name: dotted name of the module.
        module: the module itself.
        transposed: true where the parameter is stored as [in, out] (GPT-2's Conv1D).
    """

    role: str
    layer: int
    name: str
    module: nn.Module
    transposed: bool

    @property
    def weight_name(self) -> str:
        """Name of the weight in ``model.named_parameters()``."""
        return f"{self.name}.weight"

    @property
    def parameter(self) -> nn.Parameter:
        """The weight as the module stores it."""
        return self.module.get_parameter("weight")

    @property
    def bias(self) -> Tensor | None:
        """The bias [out], or None."""
        return getattr(self.module, "bias", None)

    def oriented(self, stored: Tensor) -> Tensor:
        """A tensor of the stored shape, seen as [out, in]; its own inverse."""
        return stored.T if self.transposed else stored

    @property
    def weight_OI(self) -> Tensor:
        """The weight as [out, in], without gradient; a view where the family allows it."""
        return self.oriented(self.parameter.detach())


@dataclass(frozen=True)
class Sublayer:
    """A feed-forward net with what surrounds it.

    Attributes:
        layer: index of its block, counted over all stacks.
        name: dotted name of the block.
        projections: by role; ``attention_out`` may hold several (T5's decoder).
        norm, norm_name: the norm in front of the feed-forward net.
        activation_name: dotted name of the activation module.
    """

    layer: int
    name: str
    projections: Mapping[str, Projection]
    attention_out: tuple[Projection, ...]
    norm: nn.Module
    norm_name: str
    activation_name: str

    @property
    def entrances(self) -> tuple[Projection, ...]:
        """The projections that read the norm's output."""
        return tuple(self.projections[role] for role in ("ffn_in", "ffn_gate", "ffn_up") if role in self.projections)

    @property
    def exit(self) -> Projection:
        """The projection that writes into the residual stream."""
        return self.projections["ffn_out"]

    def of_role(self, role: str) -> tuple[Projection, ...]:
        """All projections of a role; empty if the family has none."""
        if role == "attention_out":
            return self.attention_out
        return (self.projections[role],) if role in self.projections else ()


@dataclass(frozen=True)
class Family:
    """One row of the table; paths are dotted and relative to the model or to a block.

    Attributes:
        name: transformers' ``model_type``, with ``_gated`` for gated T5.
        stacks: lists of blocks.
        roles: role to path inside a block, ``|`` between alternatives of decoder blocks.
        norm: the norm in front of the feed-forward net.
        attention_norm: the norm in front of self-attention.
        activation: the activation module.
        final_norm_path: the norm in front of the vocabulary projection.
        centres: whether the norms subtract the mean over features.
        transposed: whether projections are stored as [in, out].
    """

    name: str
    stacks: tuple[str, ...]
    roles: Mapping[str, str]
    norm: str
    attention_norm: str
    activation: str
    final_norm_path: str
    centres: bool
    transposed: bool = False
    attention_out: tuple[str, ...] = ()
    activation_key: str = "hidden_act"
    feed_forward_index: Mapping[str, str] = field(default_factory=dict)

    @property
    def gated(self) -> bool:
        """Whether two branches are multiplied inside the feed-forward net."""
        return "ffn_gate" in self.roles

    @property
    def known_roles(self) -> list[str]:
        """Every role that this family has."""
        return [*self.roles, "attention_out"]

    def layers(self, model: nn.Module) -> list[nn.Module]:
        """The blocks of all stacks, in order."""
        return [block for stack in self.stacks for block in model.get_submodule(stack).children()]

    def final_norm(self, model: nn.Module) -> nn.Module:
        """The norm in front of the vocabulary projection.

        Raises:
            ConfigurationError: if this model has none (OPT with norms behind its sublayers).
        """
        module = model.get_submodule(self.final_norm_path) if _has(model, self.final_norm_path) else None
        if module is None:
            raise ConfigurationError(f"This {self.name} model has no norm in front of its vocabulary projection.")
        return module

    def centring(self, model: nn.Module) -> bool:
        """Whether every reader of the residual stream first removes its mean over features."""
        config: Any = model.config
        return self.centres and bool(getattr(config, "do_layer_norm_before", True))

    def sublayers(self, model: nn.Module) -> list[Sublayer]:
        """All feed-forward nets in order, with their neighbours."""
        found: list[Sublayer] = []
        for stack in self.stacks:
            for index, block in enumerate(model.get_submodule(stack).children()):
                found.append(
                    self._sublayer(block, f"{stack}.{index}", len(found), self.feed_forward_index.get(stack, ""))
                )
        return found

    def _sublayer(self, block: nn.Module, name: str, layer: int, place: str) -> Sublayer:
        def projection(role: str, path: str) -> Projection:
            return Projection(role, layer, f"{name}.{path}", block.get_submodule(path), self.transposed)

        def there(path: str) -> str:
            return path.replace("{ffn}", place)

        norm = there(self.norm)
        return Sublayer(
            layer=layer,
            name=name,
            projections={role: projection(role, there(path)) for role, path in self.roles.items()},
            attention_out=tuple(projection("attention_out", path) for path in self.attention_out if _has(block, path)),
            norm=block.get_submodule(norm),
            norm_name=f"{name}.{norm}",
            activation_name=f"{name}.{there(self.activation)}",
        )


def _has(model: nn.Module, path: str) -> bool:
    try:
        return model.get_submodule(path) is not None
    except AttributeError:
        return False


def _llama_like(name: str, centres: bool = False) -> Family:
    return Family(
        name=name,
        stacks=("model.layers",),
        roles={"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_out": "mlp.down_proj"},
        attention_out=("self_attn.o_proj",),
        norm="post_attention_layernorm",
        attention_norm="input_layernorm",
        activation="mlp.act_fn",
        final_norm_path="model.norm",
        centres=centres,
    )


def _t5(name: str, roles: Mapping[str, str]) -> Family:
    return Family(
        name=name,
        stacks=("encoder.block", "decoder.block"),
        feed_forward_index={"encoder.block": "layer.1", "decoder.block": "layer.2"},
        roles={role: f"{{ffn}}.DenseReluDense.{path}" for role, path in roles.items()},
        attention_out=("layer.0.SelfAttention.o", "layer.1.EncDecAttention.o"),
        norm="{ffn}.layer_norm",
        attention_norm="layer.0.layer_norm",
        activation="{ffn}.DenseReluDense.act",
        final_norm_path="decoder.final_layer_norm",
        centres=False,
        activation_key="feed_forward_proj",
    )


FAMILIES: dict[str, Family] = {
    row.name: row
    for row in (
        Family(
            name="gpt_neox",
            stacks=("gpt_neox.layers",),
            roles={"ffn_in": "mlp.dense_h_to_4h", "ffn_out": "mlp.dense_4h_to_h"},
            attention_out=("attention.dense",),
            norm="post_attention_layernorm",
            attention_norm="input_layernorm",
            activation="mlp.act",
            final_norm_path="gpt_neox.final_layer_norm",
            centres=True,
        ),
        Family(
            name="gpt2",
            stacks=("transformer.h",),
            roles={"ffn_in": "mlp.c_fc", "ffn_out": "mlp.c_proj"},
            attention_out=("attn.c_proj",),
            norm="ln_2",
            attention_norm="ln_1",
            activation="mlp.act",
            final_norm_path="transformer.ln_f",
            centres=True,
            transposed=True,
            activation_key="activation_function",
        ),
        Family(
            name="opt",
            stacks=("model.decoder.layers",),
            roles={"ffn_in": "fc1", "ffn_out": "fc2"},
            attention_out=("self_attn.out_proj",),
            norm="final_layer_norm",
            attention_norm="self_attn_layer_norm",
            activation="activation_fn",
            final_norm_path="model.decoder.final_layer_norm",
            centres=True,
            activation_key="activation_function",
        ),
        _llama_like("llama"),
        _llama_like("mistral"),
        _llama_like("qwen2"),
        _llama_like("olmo", centres=True),
        _t5("t5", {"ffn_in": "wi", "ffn_out": "wo"}),
        _t5("t5_gated", {"ffn_gate": "wi_0", "ffn_up": "wi_1", "ffn_out": "wo"}),
    )
}


def family_of(model: nn.Module) -> Family:
    """The table row of a model.

    Raises:
        ConfigurationError: if the library does not know the family.
    """
    config: Any = model.config
    name = config.model_type + ("_gated" if getattr(config, "is_gated_act", False) else "")
    if name not in FAMILIES:
        raise ConfigurationError(
            f'This model\'s family is "{name}", which Isotone does not know. It knows: {", ".join(FAMILIES)}. '
            "Choose another model, or add a row to the table in isotone/models/families.py."
        )
    return FAMILIES[name]
