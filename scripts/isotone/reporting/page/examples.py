"""Attacked documents for the report: the first few rows of each attack, changed tokens marked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from isotone.records import Json
from isotone.reporting.evidence.rows import stream_rows
from isotone.reporting.figures.choice import main_form


def _pieces(row: Json) -> list[Json]:
    """The document as text pieces; changed ones with what stood there and what stands there now."""
    changed = {flip["position"]: flip for flip in row.get("flips") or []}
    pieces = []
    for position, text in enumerate(row.get("context") or []):
        flip = changed.get(position)
        if flip is None:
            pieces.append({"changed": False, "text": str(text)})
        else:
            pieces.append(
                {"changed": True, "old": str(flip.get("old_text", "")), "new": str(flip.get("new_text", text))}
            )
    return pieces


def examples(results: Json, folder: Path) -> Iterator[Json]:
    """Up to ``report.examples`` documents per trained arm and attack, from the first seed."""
    settings = results["settings"]
    wanted = settings["report"]["examples"]
    for attack in settings["attacks"]["run"]:
        for arm in results["arms"]:
            form = main_form(results["damage"][arm][attack], attack)
            path = folder / "runs" / arm / f"seed-{settings['seeds'][0]}" / "attacks" / f"{attack}.jsonl"
            shown = 0
            if not wanted or not path.is_file():
                continue
            for _, row, _ in stream_rows(path, "attack/1"):
                if row["variant"] != form:
                    continue
                yield {
                    "arm": arm,
                    "attack": f"{attack}, {form.replace('_', ' ')}",
                    "document": str(row["document"]),
                    "J": f"{row['J']:.3f}",
                    "trigger": [str(piece.get("text", "")) for piece in row.get("trigger") or []],
                    "pieces": _pieces(row),
                }
                shown += 1
                if shown == wanted:
                    break
