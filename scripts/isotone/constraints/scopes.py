"""Which weights a scope constrains, in a given model."""

from __future__ import annotations

from torch import nn

from isotone.config.constraint import SCOPE_ROLES, Constraint
from isotone.errors import ConfigurationError
from isotone.models.families import family_of
from isotone.models.family import Family
from isotone.models.parts import Projection, Sublayer


def scopes_of(family: Family) -> list[str]:
    """The scopes that fit a family, in the table's order."""
    return family.scopes


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


def require_one_net(model: nn.Module, what: str) -> None:
    """Raise ConfigurationError where a layer has several nets, one for each expert, behind a router."""
    if any(sublayer.experts for sublayer in family_of(model).sublayers(model)):
        raise ConfigurationError(
            f"{what} looks at what each matrix reads and writes, but the experts of this {family_of(model).name} model are "
            "stacked and each sees other tokens. Choose constraint.init abs or relu, and activation keep or clamp."
        )


def constrained(model: nn.Module, settings: Constraint) -> list[Projection]:
    """The projections that the scope constrains, in the order in which the model computes them.

    Raises:
        ConfigurationError: if the scope does not fit the family; lists what does.
    """
    family = family_of(model)
    roles = SCOPE_ROLES[settings.scope]
    if roles and settings.scope not in scopes_of(family):
        raise ConfigurationError(
            f'constraint.scope is "{settings.scope}", which matches nothing in this model ({family.name}, {family.kind}; '
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
