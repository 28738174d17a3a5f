"""Read the study's text once and split it by document into parquet files."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from isotone import environment, errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="section `data` as JSON, and version")
    parser.add_argument("--documents", type=Path, required=True, help="folder for {split}.parquet")
    parser.add_argument("--marker", type=Path, required=True, help="what was read, written last")
    arguments = parser.parse_args()
    environment.prepare()

    from isotone.config.data import Corpus
    from isotone.data.readers.sources import make_corpus
    from isotone.records import whole_folder, write_marker
    from isotone.schema import as_mapping, parse

    settings = parse(Corpus, json.loads(arguments.settings), "corpus.py --settings")
    start = time.monotonic()
    with whole_folder(arguments.documents) as folder:
        result = make_corpus(settings, folder)
    write_marker(
        arguments.marker,
        "corpus",
        settings=as_mapping(settings),
        inputs={},
        outputs={f"documents/{split}": facts["fingerprint"] for split, facts in result["splits"].items()},
        result=result,
        cost={"seconds": time.monotonic() - start},
    )


if __name__ == "__main__":
    errors.run(main)
