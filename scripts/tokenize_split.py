"""Turn one split's documents into memory-mapped tokens."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from isotone import environment, errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON: document_start, score, version")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the model and its tokenizer")
    parser.add_argument("--documents", type=Path, required=True, help="the split's parquet file")
    parser.add_argument("--out", type=Path, required=True, help="folder to make; data.json is written last")
    parser.add_argument("--processes", type=int, default=0, help="processes that share the work; 0: one per CPU")
    arguments = parser.parse_args()
    environment.prepare()
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"

    from isotone.config.data import Tokens
    from isotone.data.tokenisation import tokenise
    from isotone.schema import parse

    settings = parse(Tokens, json.loads(arguments.settings), "tokenize_split.py --settings")
    processes = arguments.processes or environment.available_cpus()
    tokenise(arguments.documents, arguments.tokenizer, arguments.out, settings, processes)


if __name__ == "__main__":
    errors.run(main)
