"""Isotone: honest measurement of monotone language models.

``from isotone import constrain`` gives the pieces without Snakemake; nothing heavy
is imported before it is used. ``import isotone.models.activations`` lets plain transformers
load models with Isotone's monotone activations.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0"

_PIECES = {
    "constrain": "isotone.constraints",
    "certify": "isotone.constraints",
    "weight_maps": "isotone.constraints",
    "calibration_ids": "isotone.constraints",
    "load_model": "isotone.models",
    "load_tokenizer": "isotone.models",
    "save_model": "isotone.models",
}
__all__ = ["__version__", *_PIECES]


def __getattr__(name: str) -> Any:
    """Import a piece on first use."""
    if name not in _PIECES:
        raise AttributeError(f"module 'isotone' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_PIECES[name]), name)
