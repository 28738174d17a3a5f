"""Measure whether a model's hidden states keep the order of graded sentences."""

import argparse
import json
from pathlib import Path

from isotone import environment, errors
from isotone.config.evaluation import OrderJob
from isotone.schema import parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON: {order, document_start}")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--rows", type=Path, required=True, help="result, JSON Lines, schema order/1")
    parser.add_argument("--marker", type=Path, required=True, help="written last, JSON")
    options = parser.parse_args()
    environment.prepare()
    job = parse(OrderJob, json.loads(options.settings), "--settings")

    from isotone.evaluation.order_preservation_job import order_preservation

    environment.deterministic(seed=0)  # random streams carry keys of their own; sums depend on the thread count
    order_preservation(job, options.model, options.rows, options.marker)
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
