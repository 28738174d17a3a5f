"""Write config/schema.yaml and config/README.md from the typed settings."""

from __future__ import annotations

import argparse
from pathlib import Path

from isotone.records import whole_file
from isotone.studies import document


def options(parser: argparse.ArgumentParser) -> None:
    """Command line."""
    parser.add_argument("--folder", type=Path, default=Path("config"), help="where they go")


def run(arguments: argparse.Namespace) -> None:
    """Write both files."""
    for name, text in (("schema.yaml", document.schema_yaml()), ("README.md", document.readme())):
        with whole_file(arguments.folder / name) as file:
            file.write(text)
        print(arguments.folder / name)
