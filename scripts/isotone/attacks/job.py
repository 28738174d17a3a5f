"""The jobs of `scripts/attack.py`: read, attack, write."""

from __future__ import annotations

import math
import time
from pathlib import Path

from isotone import models
from isotone.attacks.context import Context
from isotone.attacks.documents import Manifest, read_manifest
from isotone.attacks.objective import PairObjective, TextObjective
from isotone.attacks.run import run, summary
from isotone.attacks.settings import AttackJob
from isotone.errors import ConfigurationError, InputOutputError
from isotone.evaluation.journal import Journal
from isotone.evaluation.pairs import PairScorer, open_scorer
from isotone.records import file_digest, folder_digest, read_json, write_marker, write_rows
from isotone.schema import as_mapping

ROWS, COST = "attack/1", "attack_cost/1"


def read_temperature(path: Path) -> float:
    """The best temperature of a model, from its calibration file.

    Raises:
        InputOutputError: if the file holds none above 0.
    """
    value = read_json(path).get("result", {}).get("temperature")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InputOutputError(f"{path}: result.temperature is {value!r}, not a number above 0. Make the file again.")
    return float(value)


def open_target(folder: Path, job: AttackJob, manifest: Manifest, calibration: Path | None = None) -> Context:
    """The model in ``folder`` as a target of the shared documents.

    Args:
        calibration: file with the model's best temperature, for the rows' `calibrated`.

    Raises:
        ConfigurationError: if the model does not fit the documents.
    """
    from isotone import devices

    device = devices.choose()
    model, tokenizer = models.load_model(folder, device=device), models.load_tokenizer(folder)
    scorer = open_scorer(model, tokenizer, job.document_start)
    rows = scorer.embedding.weight.shape[0]
    if rows != len(manifest.vocabulary.pieces):
        raise ConfigurationError(
            f"{folder} has {rows} embedding rows, but the attack documents were made for {len(manifest.vocabulary.pieces)}. "
            "Attack documents belong to one base model; make them again."
        )
    paired = isinstance(scorer, PairScorer)
    if paired != manifest.pairs:
        raise ConfigurationError(
            f"{folder} {'has' if paired else 'has no'} encoder, but the attack documents are {'pairs' if manifest.pairs else 'texts'}. "
            "Attack documents belong to one base model; make them again."
        )
    longest = max(len(document.ids) for document in manifest.test + manifest.search)
    scorer.check_length(longest, "attacks.shared.window")
    text = tokenizer if job.shared.threat_model == "text" else None
    temperature = read_temperature(calibration) if calibration else None
    objective = (
        PairObjective(scorer, temperature) if isinstance(scorer, PairScorer) else TextObjective(scorer, temperature)
    )
    return Context(objective, manifest.vocabulary, job, text, codec=tokenizer)


def attack(
    name: str,
    job: AttackJob,
    model: Path,
    documents: Path,
    rows: Path,
    cost: Path,
    marker: Path,
    *,
    calibration: Path | None = None,
) -> None:
    """Attack one model and write rows, seconds and, last, the marker."""
    start = time.perf_counter()
    manifest = read_manifest(documents)
    inputs = {"model": folder_digest(model, "*.safetensors"), "documents": manifest.digest}
    if calibration:
        inputs["calibration"] = file_digest(calibration)
    settings = {"attack": name, **as_mapping(job)}
    journal = Journal(rows, {"settings": settings, "inputs": inputs})
    context = open_target(model, job, manifest, calibration)
    made, costs, extra = run(name, context, manifest, journal)
    write_rows(rows, ROWS, made)
    write_rows(cost, COST, costs)
    write_marker(
        marker,
        f"attack_{name}",
        settings=settings,
        inputs=inputs,
        outputs={"rows": file_digest(rows)},
        result={**summary(made), **extra},
        cost={"seconds": round(time.perf_counter() - start, 2)},
    )
    journal.close()
