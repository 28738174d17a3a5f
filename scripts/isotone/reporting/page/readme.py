"""The README's block of results: written from a finished study, never by hand.

    python -m isotone.reporting.page.readme results/kjv/final_results.json

keeps what the block rests on in docs/result.json and writes the block; `make readme` does both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from isotone import errors
from isotone.errors import ConfigurationError
from isotone.records import Json, write_json
from isotone.reporting.analysis.outcomes import CLAIMED
from isotone.reporting.analysis.words import WORDS, cells_of, span, verdict_sentence
from isotone.reporting.final_results import read

BEGIN, END = "<!-- results: written by `make readme` -->", "<!-- end of results -->"
KEPT = ("study", "arms", "verdicts", "primary")
PENDING = (
    "No finished study is kept with this version, so nothing is claimed here: `make run`, then `make readme`, puts the study's own verdicts in "
    "this place."
)


def extract(document: Json) -> Json:
    """What the block rests on, small enough to keep beside the README."""
    results = document["results"]
    settings = {key: results["settings"][key] for key in ("report", "seeds")}
    settings["window"] = results["settings"]["attacks"]["shared"]["window"]
    protocol = results["settings"]["perplexity"]["protocols"][0]
    perplexity = {arm: results["quality"][arm][protocol]["token_perplexity"]["value"] for arm in results["arms"]}
    kept = {key: results[key] for key in KEPT} | {"settings": settings, "perplexity": perplexity}
    return {"digest": document["digest"], "headline": results["summary"]["headline"], **kept}


def block(kept: Json | None) -> str:
    """Headline, one table of verdicts with both outcomes, and the sentences; without a study, that there is none."""
    if kept is None:
        return PENDING
    heads = ["arm", "perplexity", "attack", "control", *[outcome.title for outcome in CLAIMED], "verdict"]
    lines = [kept["headline"], "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for cell in kept["primary"]:
        outcomes = [cell["outcomes"][outcome.column]["difference"] for outcome in CLAIMED]
        cells = [
            f"`{cell['arm']}`",
            f"{kept['perplexity'][cell['arm']]:.1f}",
            cell["attack"],
            cell["control"],
            *[f"{number['value']:+.2f} ({span(number, 2)})" for number in outcomes],
            WORDS[cell["verdict"]],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"Control minus arm, positive where the arm is the more robust. Digest `{kept['digest'][:12]}`.", ""]
    for entry in kept["verdicts"]:
        lines.append(f"- {verdict_sentence(entry, cells_of(kept, entry), kept['settings'])}")
    return "\n".join(lines)


def put(text: str, kept: Json | None) -> str:
    """``text`` of a README with its block replaced.

    Raises:
        ConfigurationError: if the marks of the block are not there, once each and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ConfigurationError(f"The README needs the lines {BEGIN!r} and {END!r} once, around its results.")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block(kept)}\n{END}{after}"


def main() -> int:
    """Keep the extract, write the block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="final_results.json of a finished study")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--kept", type=Path, default=Path("docs/result.json"))
    options = parser.parse_args()
    kept = extract(read(options.results))
    text = put(options.readme.read_text(encoding="utf-8"), kept)
    write_json(options.kept, kept)
    options.readme.write_text(text, encoding="utf-8")
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
