"""What the study cost: seconds per stage and run, tokens and forwards. Never part of the digest."""

from __future__ import annotations

from isotone.records import Json
from isotone.reporting.evidence import Evidence
from isotone.reporting.expected import all_runs


def _seconds(marker: Json) -> float:
    value = marker.get("cost", {}).get("seconds", 0.0)
    return float(value) if isinstance(value, (int, float)) else 0.0


def costs(evidence: Evidence) -> Json:
    """Seconds per run and stage as the markers tell them, their sum, and GPU hours where a GPU was used."""
    table: Json = {}
    for run in all_runs(evidence.study):
        entry = {"train": _seconds(evidence.markers[f"{run.folder}/train.json"])}
        entry["perplexity"] = _seconds(evidence.markers[f"{run.folder}/perplexity.json"])
        for attack in evidence.study.attacks_of(run.name):
            entry[attack] = _seconds(evidence.markers[f"{run.folder}/attacks/{attack}.json"])
        table[run.key] = entry
    total = sum(sum(entry.values()) for entry in table.values())
    gpu = sum(
        _seconds(marker)
        for marker in evidence.markers.values()
        if str(marker.get("cost", {}).get("device", "")).startswith("cuda")
    )
    return {"seconds": table, "total_seconds": total, "gpu_hours": gpu / 3600}
