"""What a family is: everything that Isotone knows of an architecture, as one row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from isotone.config.constraint import SCOPE_ROLES
from isotone.errors import ConfigurationError
from isotone.models.parts import Projection, Share, Sublayer

if TYPE_CHECKING:
    from torch import nn

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


@dataclass(frozen=True)
class Logits:
    """What follows the vocabulary projection; keys of the configuration, "" where the family has none.

    Attributes:
        times, over: factors that the logits are multiplied with and divided by.
        cap: logits become ``cap * tanh(logits / cap)``.
        tied_scale: says whether the logits are scaled by ``d_model ** -0.5`` (T5 with tied embeddings).
    """

    times: str = ""
    over: str = ""
    cap: str = ""
    tied_scale: str = ""

    def scale_of(self, config: Any) -> float:
        """The factor on the logits."""
        if self.tied_scale:
            return config.d_model**-0.5 if getattr(config, self.tied_scale, False) else 1.0
        times = float(getattr(config, self.times)) if self.times else 1.0
        return times / float(getattr(config, self.over)) if self.over else times

    def cap_of(self, config: Any) -> float:
        """The soft cap on the logits, 0 for none."""
        return float(getattr(config, self.cap, None) or 0.0) if self.cap else 0.0


@dataclass(frozen=True)
class Family:
    """One row of the table; paths are dotted and relative to the model or to a block.

    Inside a path ``|`` separates alternatives, of which the first that a block has counts, and ``[0/2]``
    stands for the first of two equal parts of a fused matrix.

    Attributes:
        name: transformers' ``model_type``, with ``_gated`` for gated T5.
        stacks: lists of blocks.
        roles: role to path inside a block.
        norm: the norm in front of the feed-forward net; "" where the net reads the residual stream itself.
        activation: the activation module.
        activation_key: the configuration's key for the activation's name.
        fixed_activation: its name where no key can change it.
        final_norm_path: the norm in front of the vocabulary projection.
        centres: whether the norms subtract the mean over features (LayerNorm) or not (RMSNorm).
        gain_offset: what the norms add to their stored gain.
        norm_behind: whether a norm follows the feed-forward net.
        in_front_key: the configuration's key that says whether norms stand in front of sublayers.
        beside: per norm, the modules inside the block that read it too (parallel attention).
        transposed: whether projections are stored as [in, out].
        bias_key: the configuration's key that gives every feed-forward projection a bias, and nothing else.
        attention: ``eager`` where transformers has no other attention for the family.
        logits: what follows the vocabulary projection.
    """

    name: str
    stacks: tuple[str, ...]
    roles: Mapping[str, str]
    norm: str
    activation: str
    final_norm_path: str
    centres: bool
    attention_out: tuple[str, ...] = ()
    activation_key: str = "hidden_act"
    fixed_activation: str = ""
    gain_offset: float = 0.0
    norm_behind: bool = False
    in_front_key: str = ""
    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    transposed: bool = False
    bias_key: str = ""
    attention: str = ""
    logits: Logits = Logits()
    feed_forward_index: Mapping[str, str] = field(default_factory=dict)

    # --- facts ---------------------------------------------------------------------------------------------------

    @property
    def encodes(self) -> bool:
        """Whether an encoder reads a source: the model's task is pairs."""
        return any(stack.startswith("encoder.") for stack in self.stacks)

    @property
    def gated(self) -> bool:
        """Whether two branches are multiplied inside the feed-forward net."""
        return "ffn_gate" in self.roles

    @property
    def kind(self) -> str:
        """The feed-forward net in words."""
        return f"{'gated' if self.gated else 'plain'} feed-forward"

    @property
    def routed(self) -> bool:
        """Whether a router chooses among experts."""
        return any("experts" in path for path in self.roles.values())

    @property
    def known_roles(self) -> list[str]:
        """Every role that this family has."""
        return [*self.roles, "attention_out"]

    @property
    def scopes(self) -> list[str]:
        """The constraint scopes that fit, in the table's order."""
        return [scope for scope, roles in SCOPE_ROLES.items() if roles and set(roles) <= set(self.known_roles)]

    def in_front(self, config: Any) -> bool:
        """Whether a norm stands in front of every sublayer."""
        return bool(self.norm) and (not self.in_front_key or bool(getattr(config, self.in_front_key)))

    def activation_of(self, config: Any) -> str:
        """The activation's name in transformers."""
        if self.fixed_activation:
            return self.fixed_activation
        if self.activation_key == "feed_forward_proj":
            return str(config.dense_act_fn)
        return str(getattr(config, self.activation_key))

    def rename_activation(self, config: Any, name: str) -> None:
        """Write another activation's name into a configuration.

        Raises:
            ConfigurationError: if the family's format has no place for it.
        """
        if self.fixed_activation:
            raise ConfigurationError(
                f"constraint.activation replaces the activation, but a {self.name} model's is always "
                f"{self.fixed_activation}: its configuration has no key that could name another. Choose keep."
            )
        if self.activation_key == "feed_forward_proj":
            config.dense_act_fn = name
            name = f"gated-{name}" if config.is_gated_act else name
        setattr(config, self.activation_key, name)

    # --- parts of a model ----------------------------------------------------------------------------------------

    def layers(self, model: nn.Module) -> list[nn.Module]:
        """The blocks of all stacks, in order."""
        return [block for stack in self.stacks for block in model.get_submodule(stack).children()]

    def final_norm(self, model: nn.Module) -> nn.Module:
        """The norm in front of the vocabulary projection.

        Raises:
            ConfigurationError: if this model has none (OPT with norms behind its sublayers).
        """
        if not _has(model, self.final_norm_path):
            raise ConfigurationError(f"This {self.name} model has no norm in front of its vocabulary projection.")
        return model.get_submodule(self.final_norm_path)

    def centring(self, model: nn.Module) -> bool:
        """Whether every reader of the residual stream first removes its mean over features."""
        return self.centres and self.in_front(model.config)

    def sublayers(self, model: nn.Module) -> list[Sublayer]:
        """All feed-forward nets in order, with their neighbours."""
        found: list[Sublayer] = []
        in_front = self.in_front(model.config)
        for stack in self.stacks:
            place = self.feed_forward_index.get(stack, "")
            for index, block in enumerate(model.get_submodule(stack).children()):
                found.append(self._sublayer(block, f"{stack}.{index}", len(found), place, in_front))
        return found

    def _sublayer(self, block: nn.Module, name: str, layer: int, place: str, in_front: bool) -> Sublayer:
        def there(path: str) -> str:
            return _first(block, path.replace("{ffn}", place))

        norm = there(self.norm) if in_front else ""
        return Sublayer(
            layer=layer,
            name=name,
            projections={role: self._projection(role, layer, name, block, there(p)) for role, p in self.roles.items()},
            attention_out=tuple(
                self._projection("attention_out", layer, name, block, path)
                for path in self.attention_out
                if _has(block, path)
            ),
            norm=block.get_submodule(norm) if norm else None,
            norm_name=f"{name}.{norm}" if norm else "",
            gain_offset=self.gain_offset,
            beside=tuple(block.get_submodule(path) for path in self.beside.get(norm, ())),
            norm_behind=self.norm_behind or (bool(self.norm) and not in_front),
            activation_name=f"{name}.{there(self.activation)}",
        )

    def _projection(self, role: str, layer: int, block_name: str, block: nn.Module, path: str) -> Projection:
        path, share = _shared(path)
        tensor = "weight"
        if not _has(block, path):  # a tensor of stacked experts, which the module above it applies
            path, _, tensor = path.rpartition(".")
        module = block.get_submodule(path)
        return Projection(role, layer, f"{block_name}.{path}", module, tensor, self.transposed, share)


def context_of(config: Any) -> int:
    """Longest sequence in tokens; 0 where the configuration does not say (a mapping, or transformers' object)."""
    for key in CONTEXT_KEYS:
        value = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return 0


def longrope_border(config: Any) -> int:
    """Longest text that a model with two sets of rotary factors (longrope) reads with its short ones; 0: it has one set.

    transformers chooses the set by the longest text of a batch.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *(value for value in rope.values() if isinstance(value, Mapping))):
        if part.get("rope_type") == "longrope":
            own = getattr(config, "original_max_position_embeddings", None)
            return int(own or part["original_max_position_embeddings"])
    return 0


def _shared(path: str) -> tuple[str, Share | None]:
    path, _, inside = path.partition("[")
    if not inside:
        return path, None
    index, parts = inside.rstrip("]").split("/")
    return path, Share(int(index), int(parts))


def _first(block: nn.Module, paths: str) -> str:
    """The first alternative that a block has; the last one if it has none, so that an error names it."""
    alternatives = paths.split("|")
    for path in alternatives:
        bare, _ = _shared(path)
        above, _, last = bare.rpartition(".")
        if _has(block, bare) or (_has(block, above) and last in dict(block.get_submodule(above).named_parameters())):
            return path
    return alternatives[-1]


def _has(model: nn.Module, path: str) -> bool:
    try:
        return model.get_submodule(path) is not None
    except AttributeError:
        return False
