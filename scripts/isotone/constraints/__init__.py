"""Constraints: which weights, how they start, how they stay non-negative, and what that proves."""

from isotone.constraints.maps import WeightMap, weight_maps
from isotone.constraints.scopes import SCOPE_ROLES, scopes_of

__all__ = ["SCOPE_ROLES", "WeightMap", "scopes_of", "weight_maps"]
