"""Let a model write from clean and from attacked sources; may be killed and started again, and goes on where it stood."""

import argparse
import json
from pathlib import Path

from isotone import environment, errors
from isotone.config.evaluation import GenerateJob
from isotone.schema import parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON: {generation}")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--shared", type=Path, required=True, help="folder of the attack documents")
    parser.add_argument("--attack", type=Path, required=True, help="JSON Lines, schema attack/1, of this model")
    parser.add_argument("--variant", required=True, help="form of the attack")
    parser.add_argument("--split", type=Path, required=True, help="tokenized split of the attack documents")
    parser.add_argument("--documents", type=Path, required=True, help="the split's texts: sources and references")
    parser.add_argument("--rows", type=Path, required=True, help="result, JSON Lines, schema generation_after/1")
    parser.add_argument("--cost", type=Path, required=True, help="seconds, JSON Lines")
    parser.add_argument("--marker", type=Path, required=True, help="written last, JSON")
    options = parser.parse_args()
    environment.prepare()
    job = parse(GenerateJob, json.loads(options.settings), "--settings")

    from isotone.attacks.outputs import after_attack

    environment.deterministic(seed=0)  # nothing is drawn; sums depend on the thread count
    after_attack(
        job,
        options.model,
        options.shared,
        options.attack,
        options.variant,
        options.split,
        options.documents,
        options.rows,
        options.cost,
        options.marker,
    )
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
