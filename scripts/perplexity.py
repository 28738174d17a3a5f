"""Measure clean quality under named protocols; may be killed and started again, and goes on where it stood."""

import argparse
import json
from pathlib import Path

from isotone import environment, errors
from isotone.config.evaluation import PerplexityJob
from isotone.schema import parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON: {perplexity, document_start, window}")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="model folders")
    parser.add_argument("--split", type=Path, required=True, help="tokenized test split")
    parser.add_argument("--documents", type=Path, required=True, help="the split's texts, whose bytes are counted")
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="results, JSON Lines, schema perplexity/1")
    parser.add_argument("--cost", type=Path, nargs="+", required=True, help="seconds, JSON Lines")
    parser.add_argument("--markers", type=Path, nargs="+", required=True, help="written last, JSON")
    options = parser.parse_args()
    outputs = (options.rows, options.cost, options.markers)
    if {len(paths) for paths in outputs} != {len(options.models)}:
        raise errors.ConfigurationError(
            f"--models has {len(options.models)} entries, --rows {len(options.rows)}, --cost {len(options.cost)}, --markers "
            f"{len(options.markers)}. Give one of each per model."
        )
    environment.prepare()
    job = parse(PerplexityJob, json.loads(options.settings), "--settings")

    from isotone.evaluation.job import perplexity

    environment.deterministic(seed=0)  # random streams carry keys of their own; sums depend on the thread count
    for model, rows, cost, marker in zip(options.models, *outputs, strict=True):
        perplexity(job, model, options.split, options.documents, rows, cost, marker)
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
