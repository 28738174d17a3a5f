"""What the study cost: seconds per stage and run, tokens and forwards. Never part of the digest."""

from __future__ import annotations

from isotone.records import Json, read_json
from isotone.reporting.evidence.expected import Run, all_runs, trained_runs
from isotone.reporting.evidence.read import Evidence


def _seconds(marker: Json) -> float:
    value = marker.get("cost", {}).get("seconds", 0.0)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _on_gpu(marker: Json, gpus: bool) -> int:
    """GPUs that a stage held: what its marker says, else one where setup saw any."""
    cost = marker.get("cost", {})
    if "device" in cost:
        return int(cost.get("processes", 1)) if str(cost["device"]).startswith("cuda") else 0
    return int(gpus)


def _tokens(evidence: Evidence, run: Run) -> Json:
    """Tokens that a run was trained on, and forward and backward tokens of all its attacks."""
    trained = evidence.markers[f"{run.folder}/train.json"]["result"].get("tokens", 0)
    spent: Json = {"trained": trained, "forward": 0, "backward": 0}
    for forms in evidence.attacks.get(run, {}).values():
        for table in forms.values():
            spent["forward"] += table.ledger.get("forward_tokens", 0)
            spent["backward"] += table.ledger.get("backward_tokens", 0)
    return spent


def costs(evidence: Evidence) -> Json:
    """Seconds per run and stage as the markers tell them, tokens, broken success criteria, and GPU hours.

    Criteria stand here and not among the results: some of them judge speed, which does not repeat.
    """
    table: Json = {}
    for run in all_runs(evidence.study):
        entry = {"train": _seconds(evidence.markers[f"{run.folder}/train.json"])}
        entry["perplexity"] = _seconds(evidence.markers[f"{run.folder}/perplexity.json"])
        for attack in evidence.study.attacks_of(run.name):
            entry[attack] = _seconds(evidence.markers[f"{run.folder}/attacks/{attack}.json"])
        table[run.key] = entry
    setup = evidence.folder / "setup.json"
    devices = read_json(setup).get("cost", {}).get("devices", {}) if setup.is_file() else {}
    gpus = bool(devices.get("gpus")) if isinstance(devices, dict) else False
    hours: dict[str, float] = {}
    for run in all_runs(evidence.study):
        held = [marker for name, marker in evidence.markers.items() if name.startswith(f"{run.folder}/")]
        hours[run.key] = sum(_seconds(marker) * _on_gpu(marker, gpus) for marker in held) / 3600
    return {
        "seconds": table,
        "tokens": {run.key: _tokens(evidence, run) for run in all_runs(evidence.study)},
        "total_seconds": sum(sum(entry.values()) for entry in table.values()),
        "flags": {
            run.key: [
                str(flag) for flag in evidence.markers[f"{run.folder}/train.json"].get("cost", {}).get("flags", [])
            ]
            for run in trained_runs(evidence.study)
        },
        "gpu_hours_by_run": hours,
        "gpu_hours": sum(hours.values()),
    }


def broken_criteria(document: Json) -> list[str]:
    """One sentence per success criterion that a run broke (``operation.criteria``); empty where all kept theirs."""
    return [f"{run}: {flag}" for run, flags in document["costs"]["flags"].items() for flag in flags]
