"""Bring all rows of a study together: final_results.json, a summary for the terminal, tables."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from isotone import errors
from isotone.config.study import read_study
from isotone.records import whole_file


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="the study's settings, JSON")
    parser.add_argument("--folder", type=Path, required=True, help="results/<study>")
    parser.add_argument("--results", type=Path, required=True, help="final_results.json to write")
    parser.add_argument("--summary", type=Path, required=True, help="experiment_summary.txt to write")
    parser.add_argument("--tables", type=Path, required=True, help="folder of tables to write")
    return parser.parse_args()


def main() -> int:
    """Read, test, write; the marker final_results.json last."""
    options = arguments()
    study = read_study(json.loads(options.settings), "--settings")
    from isotone.reporting import results
    from isotone.reporting.tables import write_tables
    from isotone.reporting.terminal import terminal_summary

    document = results.build(study, options.folder, lambda text: print(text, flush=True))
    results.validate(document)
    write_tables(options.tables, document)
    summary = terminal_summary(document)
    with whole_file(options.summary) as file:
        file.write(summary)
    results.write(options.results, document)
    print(summary)
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
