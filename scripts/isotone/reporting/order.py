"""Order preservation by depth, as the markers of rule order_preservation tell it."""

from __future__ import annotations

import numpy as np

from isotone.records import Json, file_digest, read_json
from isotone.reporting.evidence import Evidence
from isotone.reporting.expected import trained_runs
from isotone.reporting.numbers import Sources


def order(evidence: Evidence, sources: Sources) -> Json:
    """Arm to layers: share of probe coordinates in order, and the two nulls, seeds averaged."""
    if not evidence.study.order_preservation.run:
        return {}
    table: Json = {}
    for arm in evidence.study.arms:
        runs = [run for run in trained_runs(evidence.study) if run.name == arm]
        found = [read_json(evidence.folder / run.folder / "order.json")["result"].get("layers", []) for run in runs]
        names = [f"{run.folder}/order.jsonl" for run in runs]
        rows = sources.other([(name, file_digest(evidence.folder / name)) for name in names])
        layers = []
        for parts in zip(*found, strict=True):
            entry: Json = {"layer": parts[0]["layer"], "rows": rows, "seeds": len(parts)}
            for key in parts[0]:
                values = [part[key] for part in parts]
                if key != "layer" and all(isinstance(value, (int, float)) for value in values):
                    entry[key] = float(np.mean(values))
            layers.append(entry)
        table[arm] = layers
    return table
