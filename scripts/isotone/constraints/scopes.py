"""Which weights a scope constrains, in a given model."""

from __future__ import annotations

from torch import nn

from isotone.config.constraint import Constraint
from isotone.errors import ConfigurationError
from isotone.models.families import Family, Projection, Sublayer, family_of

SCOPE_ROLES: dict[str, tuple[str, ...]] = {
    "none": (),
    "mlp_in": ("ffn_in",),
    "mlp_both": ("ffn_in", "ffn_out"),
    "mlp_in_attn_out": ("ffn_in", "attention_out"),
    "gated_updown": ("ffn_up", "ffn_out"),
    "gated_all": ("ffn_gate", "ffn_up", "ffn_out"),
}


def scopes_of(family: Family) -> list[str]:
    """The scopes that fit a family, in the table's order."""
    return [scope for scope, roles in SCOPE_ROLES.items() if roles and set(roles) <= set(family.known_roles)]


def selected_sublayers(model: nn.Module, settings: Constraint) -> list[Sublayer]:
    """The feed-forward nets that ``settings.layers`` selects; empty means all.

    Raises:
        ConfigurationError: if a layer does not exist.
    """
    sublayers = family_of(model).sublayers(model)
    unknown = sorted(set(settings.layers) - {sublayer.layer for sublayer in sublayers})
    if unknown:
        raise ConfigurationError(
            f"constraint.layers has {unknown}, but this {family_of(model).name} model has layers 0 to "
            f"{len(sublayers) - 1}. List some of these, or nothing for all."
        )
    return [sublayer for sublayer in sublayers if not settings.layers or sublayer.layer in settings.layers]


def constrained(model: nn.Module, settings: Constraint) -> list[Projection]:
    """The projections that the scope constrains, in the order in which the model computes them.

    Raises:
        ConfigurationError: if the scope does not fit the family; lists what does.
    """
    family = family_of(model)
    roles = SCOPE_ROLES[settings.scope]
    if roles and settings.scope not in scopes_of(family):
        kind = "gated feed-forward" if family.gated else "plain feed-forward"
        raise ConfigurationError(
            f'constraint.scope is "{settings.scope}", which matches nothing in this model ({family.name}, {kind}; '
            f"roles found: {', '.join(family.known_roles)}). It knows: {', '.join(scopes_of(family))}. "
            'See config/README.md, "Constraint scopes".'
        )
    order = ("attention_out", "ffn_gate", "ffn_up", "ffn_in", "ffn_out")
    return [
        projection
        for sublayer in selected_sublayers(model, settings)
        for role in order
        if role in roles
        for projection in sublayer.of_role(role)
    ]
