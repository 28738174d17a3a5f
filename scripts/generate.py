"""Let an encoder-decoder model write, and compare with the references; may be killed and started again, and goes on where it stood."""

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
    parser.add_argument("--split", type=Path, required=True, help="tokenized test split")
    parser.add_argument("--documents", type=Path, required=True, help="the split's texts: sources and references")
    parser.add_argument("--rows", type=Path, required=True, help="result, JSON Lines, schema generation/1")
    parser.add_argument("--cost", type=Path, required=True, help="seconds, JSON Lines")
    parser.add_argument("--marker", type=Path, required=True, help="written last, JSON")
    options = parser.parse_args()
    environment.prepare()
    job = parse(GenerateJob, json.loads(options.settings), "--settings")

    from isotone.evaluation.generation_job import generate

    environment.deterministic(seed=0)  # nothing is drawn; sums depend on the thread count
    generate(job, options.model, options.split, options.documents, options.rows, options.cost, options.marker)
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
