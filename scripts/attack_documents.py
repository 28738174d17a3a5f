"""Choose the documents, positions and replacement tokens that every attack on every model shares."""

import argparse
import json
from pathlib import Path

from isotone import environment, errors
from isotone.attacks.shared import DocumentsJob
from isotone.schema import parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON: {shared, document_start}")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--test", type=Path, required=True, help="tokenized split that attacks are measured on")
    parser.add_argument("--search", type=Path, required=True, help="tokenized split that triggers are searched on")
    parser.add_argument("--out", type=Path, required=True, help="folder; its manifest.json is the marker")
    options = parser.parse_args()
    environment.prepare()
    job = parse(DocumentsJob, json.loads(options.settings), "--settings")

    from isotone.attacks import prepare

    prepare.make(job, options.tokenizer, options.test, options.search, options.out)
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
