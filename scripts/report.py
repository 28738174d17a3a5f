"""Write the one self-contained page of a study."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from isotone import errors
from isotone.records import whole_file
from isotone.studies.study import read_study


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="the study's settings, JSON")
    parser.add_argument(
        "--folder", type=Path, required=True, help="results/<study>, with final_results.json and figures/"
    )
    parser.add_argument("--report", type=Path, required=True, help="report.html to write")
    return parser.parse_args()


def main() -> int:
    """Render and write."""
    options = arguments()
    read_study(json.loads(options.settings), "--settings")
    from isotone.reporting import final_results as results
    from isotone.reporting.page.html import render

    page = render(results.read(options.folder / "final_results.json"), options.folder)
    with whole_file(options.report) as file:
        file.write(page)
    print(f"{options.report}: {len(page) / 1e6:.1f} MB")
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
