"""What config.json says a second time, in the words of transformers 4, so that the folder is one function in both.

transformers 5 moved all that rotary positions need into ``rope_parameters``. Version 4, and tools that read the file
as it was, do not look there: they silently take a base of 10,000, no scaling, and the family's default share of
rotated features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where version 4 reads the base and the rotated share of a head, beside what all other families call them.
BASE, SHARE = "rope_theta", "partial_rotary_factor"
OWN_NAMES = {"gpt_neox": {BASE: "rotary_emb_base", SHARE: "rotary_pct"}}


def older_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys to add to a config.json that transformers 5 wrote.

    Source: ``modeling_rope_utils.py`` and the families' configurations of transformers 4.57.3.
    """
    found: dict[str, Any] = {}
    if "num_local_experts" in config and config.get("model_type") == "qwen3_moe":
        found["num_experts"] = config["num_local_experts"]
    rope = config.get("rope_parameters") or {}
    if "full_attention" in rope:  # Gemma 3: one set for each kind of layer
        if "sliding_attention" in rope:
            found["rope_local_base_freq"] = rope["sliding_attention"][BASE]
        rope = rope["full_attention"]
    names = OWN_NAMES.get(str(config.get("model_type")), {})
    for key in (BASE, SHARE):
        if key in rope:
            found[names.get(key, key)] = rope[key]
    if rope.get("rope_type", "default") != "default":
        found["rope_scaling"] = {key: value for key, value in rope.items() if key not in (BASE, SHARE)}
    return {key: value for key, value in found.items() if key not in config}
