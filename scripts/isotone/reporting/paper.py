"""For the paper: one macro per number, the method in words, references."""

from __future__ import annotations

from pathlib import Path

from isotone.records import Json


def write_paper(folder: Path, document: Json) -> None:
    """numbers.tex, methods.tex and references.bib."""
    folder.mkdir(parents=True, exist_ok=True)
