"""Attack some models with one attack; may be killed and started again, and goes on where it stood."""

import argparse
import json
from pathlib import Path

from isotone import environment, errors
from isotone.attacks.registry import SPECS
from isotone.attacks.settings import AttackJob
from isotone.schema import parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attack", required=True, choices=list(SPECS), help="which attack")
    parser.add_argument("--settings", required=True, help="JSON: {shared, document_start, <attack's section>, hotflip}")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders of the targets")
    parser.add_argument("--documents", type=Path, required=True, help="folder of attack_documents.py")
    parser.add_argument(
        "--calibrations",
        type=Path,
        nargs="*",
        default=[],
        help="JSON, {result: {temperature}}: rows get `calibrated`; one per model",
    )
    parser.add_argument(
        "--rows", type=Path, nargs="+", required=True, help="JSON Lines, schema attack/1, one per model"
    )
    parser.add_argument("--cost", type=Path, nargs="+", required=True, help="seconds, JSON Lines, one per model")
    parser.add_argument("--markers", type=Path, nargs="+", required=True, help="written last, JSON, one per model")
    options = parser.parse_args()
    environment.prepare()
    job = parse(AttackJob, json.loads(options.settings), "--settings")

    calibrations = options.calibrations or [None] * len(options.models)
    lists = (options.models, calibrations, options.rows, options.cost, options.markers)
    if len({len(entries) for entries in lists}) > 1:
        raise errors.ConfigurationError(
            f"--models, --calibrations, --rows, --cost and --markers have {', '.join(str(len(entries)) for entries in lists)} "
            "entries. Give one of each per model."
        )

    from isotone.attacks.job import attack

    environment.deterministic(seed=0)  # random streams carry keys of their own; sums depend on the thread count
    for model, calibration, *results in zip(
        options.models, calibrations, options.rows, options.cost, options.markers, strict=True
    ):
        attack(options.attack, job, model, options.documents, *results, calibration=calibration)
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
