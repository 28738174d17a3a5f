"""Order preservation by depth, as the markers of rule order_preservation tell it."""

from __future__ import annotations

import numpy as np

from isotone.records import Json, file_digest, read_json
from isotone.reporting.analysis.numbers import Sources
from isotone.reporting.evidence.expected import trained_runs
from isotone.reporting.evidence.read import Evidence


def order(evidence: Evidence, sources: Sources) -> Json:
    """Arm to layers: share of probe coordinates in order, and the two nulls, seeds averaged."""
    if not evidence.study.order_preservation.run:
        return {}
    table: Json = {}
    for arm in evidence.study.arms:
        runs = [run for run in trained_runs(evidence.study) if run.name == arm]
        found = [read_json(evidence.folder / run.folder / "order.json")["result"]["layers"] for run in runs]
        names = [f"{run.folder}/order.jsonl" for run in runs]
        rows = sources.other([(name, file_digest(evidence.folder / name)) for name in names])
        layers = []
        for layer in sorted(found[0], key=int):
            entry: Json = {"layer": int(layer), "rows": rows, "seeds": len(found)}
            for key in found[0][layer]:
                entry[key] = float(np.mean([part[layer][key] for part in found]))
            layers.append(entry)
        table[arm] = layers
    return table
