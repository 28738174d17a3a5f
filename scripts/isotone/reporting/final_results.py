"""final_results.json: everything that was found, each number with unit, n, interval, method and rows."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema

from isotone.config.data import SPLITS
from isotone.provenance import software
from isotone.records import Json, digest_of, read_json, write_json
from isotone.reporting.analysis.claims import primary
from isotone.reporting.analysis.comparisons import secondary
from isotone.reporting.analysis.costs import costs
from isotone.reporting.analysis.damage import damage
from isotone.reporting.analysis.gates import gates
from isotone.reporting.analysis.kept_order import order
from isotone.reporting.analysis.numbers import Sources, tidy
from isotone.reporting.analysis.quality import quality
from isotone.reporting.analysis.recovery import recovery
from isotone.reporting.analysis.replays import transfer
from isotone.reporting.analysis.summary import summary
from isotone.reporting.analysis.written import written
from isotone.reporting.evidence.expected import all_runs, primary_variant
from isotone.reporting.evidence.read import Evidence, load_evidence, optional_result
from isotone.reporting.evidence.rows import collector_paused
from isotone.schema import as_mapping
from isotone.studies.study import Study

SCHEMA = "isotone/final_results/2"


def published_schema() -> Json:
    """The JSON Schema that final_results.json follows (part of the package)."""
    file = importlib.resources.files("isotone.reporting").joinpath("final_results.schema.json")
    return json.loads(file.read_text(encoding="utf-8"))


def settings_of(study: Study) -> Json:
    """The study's settings without what changes no result."""
    plain = as_mapping(study)
    plain.pop("operation", None)
    return plain


def in_fixed_order(study: Study) -> Study:
    """The same study with the reference first and the other arms by name.

    Settings travel as canonical JSON, which sorts keys; the order in which a user
    wrote the arms must not show in the results.
    """
    reference = study.report.baseline
    arms = sorted(study.arms, key=lambda name: (name != reference, name))
    return replace(study, arms={name: study.arms[name] for name in arms})


def _setup(folder: Path) -> Json:
    """What setup found about the model; versions and devices stay in setup.json, they would change the digest."""
    facts = optional_result(folder, "setup.json")
    return {key: facts[key] for key in ("parameters", "test_text_seen_in_pretraining") if key in facts}


def _data(folder: Path) -> Json:
    """Where each split comes from and its fingerprint."""
    found: Json = {"corpus": optional_result(folder, "data/corpus.json")}
    for split in SPLITS:
        path = folder / "data" / split / "data.json"
        found[split] = read_json(path) if path.is_file() else {}
    return found


def _certificates(evidence: Evidence) -> Json:
    return {run.key: evidence.certificates[run] for run in all_runs(evidence.study) if not run.kind}


def _training(evidence: Evidence) -> Json:
    return {run.key: evidence.markers[f"{run.folder}/train.json"]["result"] for run in all_runs(evidence.study)}


def _triggers(evidence: Evidence) -> Json:
    found: Json = {}
    for run in all_runs(evidence.study):
        for attack in evidence.study.attacks_of(run.name):
            marker = evidence.markers.get(f"{run.folder}/attacks/{attack}.json")
            if marker and run not in evidence.unavailable and "triggers" in marker["result"]:
                found.setdefault(run.key, {})[attack] = marker["result"]["triggers"]
    return found


def build(study: Study, folder: Path, say: Callable[[str], None] = lambda text: None) -> Json:
    """All results of one study, from its rows.

    Args:
        say: is told what is being worked on.

    Returns:
        the content of final_results.json.

    Raises:
        ConfigurationError, InputOutputError: see `load_evidence`.
    """
    study = in_fixed_order(study)
    say("reading rows")
    with collector_paused():
        evidence = load_evidence(study, folder)
        sources = Sources(evidence)
        replays, replayed = transfer(evidence, sources)
    cells, verdicts = primary(evidence, sources)
    compared = secondary(evidence, sources, say)
    for entry in compared:
        entry["primary_form"] = entry["variant"] == primary_variant(study, entry["attack"])
    results: dict[str, Any] = {
        "study": study.study,
        "arms": list(study.arms),
        "settings": settings_of(study),
        "setup": _setup(folder),
        "data": _data(folder),
        "quality": quality(evidence, sources, say),
        **({"generation": written(evidence, sources)} if study.writes else {}),
        "damage": damage(evidence, sources, say),
        "verdicts": verdicts,
        "primary": cells,
        "comparisons": compared,
        "gates": gates(evidence, sources, replayed, say),
        "transfer": replays,
        "order": order(evidence, sources),
        "certificates": _certificates(evidence),
        "training": _training(evidence),
        "recovery": recovery(evidence),
        "triggers": _triggers(evidence),
        "unavailable": {run.key: reason for run, reason in evidence.unavailable.items()},
    }
    results["summary"] = summary(results)
    results["files"], results["rows"] = sources.files, sources.groups
    results = tidy(results)
    return {
        "schema": SCHEMA,
        "digest": digest_of(results),
        "results": results,
        "costs": tidy(costs(evidence)),
        "isotone": software(),
    }


def validate(document: Json) -> None:
    """Insist on the published schema and on the digest.

    Raises:
        ValueError: what does not fit; a fault of Isotone, not of its user.
    """
    errors = sorted(
        jsonschema.Draft202012Validator(published_schema()).iter_errors(document), key=lambda error: error.path
    )
    if errors:
        raise ValueError(
            f"final_results.json: {'/'.join(map(str, errors[0].absolute_path))}: {errors[0].message[:300]}"
        )
    if document["digest"] != digest_of(document["results"]):
        raise ValueError("final_results.json: the digest does not belong to the results")


def write(path: Path, document: Json) -> None:
    """Validate and write, atomically."""
    validate(document)
    write_json(path, document)


def read(path: Path) -> Json:
    """Read final_results.json back.

    Raises:
        InputOutputError: if it is missing, damaged or of another version.
    """
    from isotone.errors import InputOutputError

    document = read_json(path)
    if document.get("schema") != SCHEMA:
        raise InputOutputError(f"{path} follows {document.get('schema')!r}, not {SCHEMA}. Run rule aggregate again.")
    if document["digest"] != digest_of(document["results"]):
        raise InputOutputError(
            f"{path} was changed after it was written (its digest does not fit). Run rule aggregate again."
        )
    return document


__all__ = ["SCHEMA", "build", "published_schema", "read", "settings_of", "validate", "write"]
