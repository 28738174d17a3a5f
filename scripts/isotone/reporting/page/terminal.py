"""experiment_summary.txt: the study for a terminal, 78 columns wide."""

from __future__ import annotations

import textwrap

from isotone.records import Json
from isotone.reporting.analysis.costs import broken_criteria
from isotone.reporting.figures.choice import in_order, main_form
from isotone.reporting.tables.table import text_of

WIDTH = 78


def _wrapped(sentences: list[str]) -> list[str]:
    lines = []
    for sentence in sentences:
        lines += textwrap.wrap(sentence, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)
    return lines


def _grid(header: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in [header, *rows]) for column in range(len(header))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [header, *rows]
    ]


def terminal_summary(document: Json) -> str:
    """Headline, sentences, one small table of quality and damage, gates, digest."""
    results, words = document["results"], document["results"]["summary"]
    title = results["settings"]["report"]["title"] or results["study"]
    protocol = results["settings"]["perplexity"]["protocols"][0]
    attacks = [name for name in results["settings"]["attacks"]["run"]]
    lines = [f"Isotone: {title}", "=" * min(WIDTH, 9 + len(title)), "", *textwrap.wrap(words["headline"], WIDTH), ""]
    rows = []
    for arm in in_order(results, results["quality"]):
        cells = [arm, text_of(results["quality"][arm][protocol]["token_perplexity"]["value"], 2)]
        for attack in attacks:
            forms = results["damage"][arm].get(attack)
            cells.append(text_of(forms[main_form(forms, attack)]["J"]["value"]) if forms else "-")
        rows.append(cells)
    lines += _grid(["arm", f"perplexity/token ({protocol})", *[f"J {attack}" for attack in attacks]], rows)
    lines += ["  J: mean rise of the loss of unchanged tokens, nats per token; seeds averaged.", ""]
    for heading, key in (
        ("Robustness against controls of equal quality", "robustness"),
        ("Clean quality", "quality"),
        ("Against the baseline itself", "against_baseline"),
        ("Limits", "limits"),
        ("The text", "text"),
    ):
        if words[key]:
            lines += [heading, *_wrapped(words[key]), ""]
    if broken := broken_criteria(document):
        lines += ["Success criteria that runs broke", *_wrapped(broken), ""]
    seconds = document["costs"]["total_seconds"]
    lines += [f"Runs took {seconds / 60:.1f} minutes in all.", f"Digest {document['digest']}", ""]
    return "\n".join(lines)
