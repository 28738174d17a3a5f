"""A table once, for three readers: CSV for programs, LaTeX for the paper, HTML for the report."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import Any

from isotone.records import Json

Cell = str | int | float | bool | None | Json  # a Json cell is a number of final_results.json


@dataclass(frozen=True)
class Column:
    """One column: key in the rows, heading, digits behind the point."""

    key: str
    label: str
    digits: int = 3


@dataclass(frozen=True)
class Table:
    """Rows with their columns; ``note`` says what is measured and in which unit."""

    name: str
    title: str
    note: str
    columns: list[Column]
    rows: list[dict[str, Cell]] = field(default_factory=list)


def is_number(cell: Any) -> bool:
    """Whether a cell is a number of final_results.json."""
    return isinstance(cell, dict) and "value" in cell and "unit" in cell


def text_of(cell: Cell, digits: int = 3) -> str:
    """A cell for a reader: value with its interval in brackets."""
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, dict):
        value = _float(cell["value"], digits)
        if cell["interval"] is None:
            return value
        return f"{value} [{_float(cell['interval'][0], digits)}, {_float(cell['interval'][1], digits)}]"
    return _float(cell, digits) if isinstance(cell, float) else str(cell)


def _float(value: float, digits: int) -> str:
    if value != 0 and (abs(value) < 0.5 * 10**-digits or abs(value) >= 1e6):
        return f"{value:.2e}"
    return f"{value:.{digits}f}"


def to_csv(table: Table) -> str:
    """CSV with a header; a number takes five columns: value, low, high, n, unit."""
    wide = {column.key for column in table.columns if any(is_number(row.get(column.key)) for row in table.rows)}
    header: list[str] = []
    for column in table.columns:
        header += (
            [column.key + end for end in ("", "_low", "_high", "_n", "_unit")] if column.key in wide else [column.key]
        )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        line: list[Any] = []
        for column in table.columns:
            cell = row.get(column.key)
            if column.key not in wide:
                line.append("" if cell is None else cell)
            elif isinstance(cell, dict):
                low, high = cell["interval"] or ("", "")
                line += [cell["value"], low, high, cell["n"], cell["unit"]]
            else:
                line += ["" if cell is None else cell, "", "", "", ""]
        writer.writerow(line)
    return buffer.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
}


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it stands; what a plain font lacks becomes ``?``."""
    mapped = "".join(_LATEX.get(letter, letter) for letter in text)
    return "".join(letter if letter.isprintable() and ord(letter) < 256 else "?" for letter in mapped)


def to_latex(table: Table) -> str:
    """A booktabs table, in a size that fits a column of a paper where it can."""
    alignment = "".join("l" if _is_text(table, column.key) else "r" for column in table.columns)
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{latex_text(table.title)}. {latex_text(table.note)}}}",
        rf"\label{{tab:{table.name.replace('_', '-')}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(latex_text(column.label) for column in table.columns) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = (latex_text(text_of(row.get(column.key), column.digits)) for column in table.columns)
        # a line that starts with [ would be read as the optional argument of \\
        lines.append(" & ".join("{}" + cell if cell.startswith("[") else cell for cell in cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""]
    return "\n".join(lines)


def _is_text(table: Table, key: str) -> bool:
    return any(isinstance(row.get(key), str) for row in table.rows)
