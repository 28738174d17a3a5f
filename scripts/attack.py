"""Attack one model with one attack; may be killed and started again, and goes on where it stood."""

import argparse
import json
from pathlib import Path

from isotone import environment, errors
from isotone.config.evaluation import ATTACKS, AttackJob
from isotone.config.schema import parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attack", required=True, choices=ATTACKS, help="which attack")
    parser.add_argument("--settings", required=True, help="JSON: {shared, document_start, <attack's section>, hotflip}")
    parser.add_argument("--model", type=Path, required=True, help="folder of the target")
    parser.add_argument("--documents", type=Path, required=True, help="folder of attack_documents.py")
    parser.add_argument("--rows", type=Path, required=True, help="result, JSON Lines, schema attack/1")
    parser.add_argument("--cost", type=Path, required=True, help="seconds, JSON Lines")
    parser.add_argument("--marker", type=Path, required=True, help="written last, JSON")
    options = parser.parse_args()
    environment.prepare()
    job = parse(AttackJob, json.loads(options.settings), "--settings")

    from isotone.attacks.job import attack

    environment.deterministic(seed=0)  # random streams carry keys of their own; sums depend on the thread count
    attack(options.attack, job, options.model, options.documents, options.rows, options.cost, options.marker)
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
