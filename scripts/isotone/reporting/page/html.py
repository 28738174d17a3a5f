"""One self-contained page: no external request, every text escaped, every number linked to its rows."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from isotone import __version__
from isotone.records import Json
from isotone.reporting.analysis.costs import broken_criteria
from isotone.reporting.figures.captions import captions
from isotone.reporting.page.examples import examples
from isotone.reporting.tables.study import all_tables
from isotone.reporting.tables.table import Cell, Table, is_number, text_of

SECTIONS = [
    ("summary", "Summary"),
    ("primary", "Primary comparison"),
    ("gates", "Gates"),
    ("figures", "Figures"),
    ("tables", "Tables"),
    ("examples", "Attacked documents"),
    ("triggers", "Triggers"),
    ("certificates", "Certificates"),
    ("settings", "Settings"),
    ("rows", "Rows"),
]
STATES = {
    "pass": "good",
    "fail": "bad",
    "not run": "none",
    "certified": "good",
    "conditional": "none",
    "violated": "bad",
    "not_monotone_by_design": "none",
    "more robust": "good",
    "less robust": "bad",
    "depends on the control": "bad",
    "the outcomes disagree": "bad",
}
STATE_COLUMNS = ("state", "verdict", "word")


def _template_text(name: str) -> str:
    return importlib.resources.files("isotone.reporting.page").joinpath("templates", name).read_text(encoding="utf-8")


def environment() -> jinja2.Environment:
    """Templates of the package, with escaping on for every template, whatever its name."""
    loader = jinja2.FunctionLoader(_template_text)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)


def _hash(text: str) -> str:
    """The source hash of a Content-Security-Policy: nothing but this very text may run."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _cell(key: str, cell: Cell, digits: int) -> Json:
    if is_number(cell) and isinstance(cell, dict):
        hint = f"{cell['unit']}; n = {cell['n']}; {cell['method']}"
        return {
            "kind": "number",
            "text": text_of(cell, digits),
            "sort": cell["value"],
            "rows": cell["rows"],
            "hint": hint,
        }
    if key in STATE_COLUMNS and isinstance(cell, str):
        return {"kind": "state", "text": cell.replace("_", " "), "state": STATES.get(cell, "none")}
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        return {"kind": "number", "text": text_of(cell, digits), "sort": cell, "rows": "", "hint": ""}
    return {"kind": "text", "text": text_of(cell, digits), "sort": "" if cell is None else text_of(cell, digits)}


def _plain_table(table: Table) -> Json:
    rows = [[_cell(column.key, row.get(column.key), column.digits) for column in table.columns] for row in table.rows]
    heads = []
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in rows]
        numeric = any(cell["kind"] == "number" for cell in cells)
        for cell in cells:
            cell["right"] = numeric and cell["kind"] == "text"
        heads.append({"label": column.label, "numeric": numeric})
    return {"name": table.name, "title": table.title, "note": table.note, "heads": heads, "rows": rows}


def _pictures(document: Json, folder: Path) -> Iterator[Json]:
    for name, title, caption in captions(document):
        path = folder / "figures" / f"{name}.png"
        if path.is_file():
            content = path.read_bytes()
            width, height = struct.unpack(">II", content[16:24])
            scale = 96 / 220 * 1.35  # drawn at 220 dots per inch for a paper column; a screen wants it somewhat larger
            yield {
                "name": name,
                "title": title,
                "caption": caption,
                "png": base64.b64encode(content).decode(),
                "width": round(width * scale),
                "height": round(height * scale),
            }


def _triggers(results: Json) -> list[Json]:
    rows = []
    for run, attacks in results["triggers"].items():
        for attack, found in attacks.items():
            rows += [
                {"run": run, "attack": attack, "pieces": entry["text"], "J": f"{entry['J']:.3f}"} for entry in found
            ]
    return rows


def _group(paths: list[str]) -> str:
    """Files of one group in a few words: ``baseline, mlp_in: attacks/hotflip.jsonl (6 files)``."""
    runs = [path.split("/", 3) for path in paths if path.startswith("runs/") and path.count("/") > 2]
    if len(runs) < len(paths):
        return f"{Path(paths[0]).parent} ({len(paths)} files)"
    arms, names = (", ".join(sorted({run[part] for run in runs})) for part in (1, 3))
    return f"{arms}: {names} ({len(paths)} file{'s' if len(paths) > 1 else ''})"


def _readable(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _versions(folder: Path) -> str:
    path = folder / "setup.json"
    return _readable(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else ""


def render(document: Json, folder: Path) -> str:
    """The page, from final_results.json, the figures beside it and the first rows of each attack.

    Args:
        document: content of final_results.json.
        folder: results/<study>; figures/ is read from it, links are relative to it.
    """
    results = document["results"]
    words = results["summary"]
    shown = list(examples(results, folder))
    triggers = _triggers(results)
    style, script = _template_text("report.css"), _template_text("report.js")
    skipped = {"examples"} if not shown else set()
    skipped |= {"triggers"} if not triggers else set()
    states = [gate["state"] for gate in results["gates"]]
    return (
        environment()
        .get_template("report.html")
        .render(
            title=results["settings"]["report"]["title"] or results["study"],
            summary=words,
            sentences=[
                ("Robustness against controls of equal quality", words["robustness"]),
                ("Clean quality", words["quality"]),
                ("Against the baseline itself", words["against_baseline"]),
                ("Limits", words["limits"]),
                ("The text", words["text"]),
                ("Success criteria that runs broke", broken_criteria(document)),
            ],
            arms=results["settings"]["arms"],
            seeds=results["settings"]["seeds"],
            gate_counts={state: states.count(state) for state in ("pass", "fail", "not run")},
            sections=[section for section in SECTIONS if section[0] not in skipped],
            tables=[_plain_table(table) for table in all_tables(document)],
            figures=list(_pictures(document, folder)),
            examples=shown,
            triggers=triggers,
            settings=_readable(results["settings"]),
            versions=_versions(folder),
            data=_readable(results["data"]),
            links={key: paths[0] if len(paths) == 1 else f"#rows-{key}" for key, paths in results["rows"].items()},
            rows=results["rows"],
            groups={key: _group(paths) for key, paths in results["rows"].items()},
            files=results["files"],
            digest=document["digest"],
            minutes=f"{document['costs']['total_seconds'] / 60:.1f}",
            gpu_hours=f"{document['costs']['gpu_hours']:.1f}" if document["costs"]["gpu_hours"] else "",
            version=__version__,
            style=style,
            script=script,
            style_hash=_hash(style),
            script_hash=_hash(script),
        )
    )
