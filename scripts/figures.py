"""Draw the figures of a study, as PDF for the paper and PNG for the report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from isotone import errors
from isotone.studies.study import read_study


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="the study's settings, JSON")
    parser.add_argument("--folder", type=Path, required=True, help="results/<study>, with final_results.json")
    parser.add_argument("--figures", type=Path, required=True, help="folder of figures to write")
    return parser.parse_args()


def main() -> int:
    """Read final_results.json and the histories, draw."""
    options = arguments()
    read_study(json.loads(options.settings), "--settings")
    from isotone.reporting import final_results as results
    from isotone.reporting.figures.draw import write_figures

    document = results.read(options.folder / "final_results.json")
    write_figures(options.figures, document, options.folder, lambda text: print(text, flush=True))
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
