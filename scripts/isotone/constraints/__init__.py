"""Constraints: which weights, how they start, how they stay non-negative, and what that proves."""

from isotone.config.constraint import SCOPE_ROLES
from isotone.constraints.capture import calibration_ids
from isotone.constraints.certificate import certify
from isotone.constraints.maps import WeightMap, weight_maps, whole_maps
from isotone.constraints.scopes import scopes_of
from isotone.constraints.starts import constrain, guard_precision

__all__ = [
    "SCOPE_ROLES",
    "WeightMap",
    "calibration_ids",
    "certify",
    "constrain",
    "guard_precision",
    "scopes_of",
    "weight_maps",
    "whole_maps",
]
