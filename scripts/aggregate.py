"""Bring all rows of a study together: final_results.json, a summary for the terminal, tables."""

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
    one = parser.add_argument_group("one study")
    one.add_argument("--settings", help="the study's settings, JSON")
    one.add_argument("--folder", type=Path, help="results/<study>")
    one.add_argument("--results", type=Path, help="final_results.json to write")
    one.add_argument("--summary", type=Path, help="experiment_summary.txt to write")
    one.add_argument("--tables", type=Path, help="folder of tables to write")
    several = parser.add_argument_group("several studies")
    several.add_argument("--studies", type=Path, nargs="+", help="final_results.json of each study")
    several.add_argument("--comparison", type=Path, help="folder of comparison tables to write")
    options = parser.parse_args()
    needed = ("studies", "comparison") if options.studies else ("settings", "folder", "results", "summary", "tables")
    missing = [f"--{name}" for name in needed if getattr(options, name) is None]
    if missing:
        parser.error(f"missing: {', '.join(missing)}")
    return options


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def main() -> int:
    """Read, test, write; the marker final_results.json last."""
    options = arguments()
    if options.studies:
        from isotone.reporting.tables.crossstudy import compare_studies

        for table in compare_studies(options.studies, options.comparison):
            say(f"{options.comparison / table.name}.csv: {len(table.rows)} rows")
        return errors.DONE
    study = read_study(json.loads(options.settings), "--settings")
    from isotone.reporting import final_results as results
    from isotone.reporting.page.cards import write_cards
    from isotone.reporting.page.terminal import terminal_summary
    from isotone.reporting.tables.study import write_tables

    document = results.build(study, options.folder, say)
    results.validate(document)
    write_tables(options.tables, document)
    write_cards(options.folder, document)
    summary = terminal_summary(document)
    with whole_file(options.summary) as file:
        file.write(summary)
    results.write(options.results, document)
    say(summary)
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
