"""Several studies (models, sizes) in one comparison, from their final_results.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isotone.errors import ConfigurationError
from isotone.records import Json, whole_folder
from isotone.reporting.analysis.outcomes import CLAIMED
from isotone.reporting.analysis.words import WORDS
from isotone.reporting.figures.choice import main_form
from isotone.reporting.final_results import read
from isotone.reporting.tables.table import Cell, Column, Table, to_csv, to_latex


def comparison(documents: Sequence[Json]) -> list[Table]:
    """Quality with damage per arm, and every arm against every control, one line per study.

    Nothing is pooled over studies: they differ in model, corpus and budgets, which stand beside.

    Raises:
        ConfigurationError: if a study is given twice.
    """
    names = [document["results"]["study"] for document in documents]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"studies {names}: one is given twice. A comparison lists each study once.")
    arms: list[dict[str, Cell]] = []
    claims: list[dict[str, Cell]] = []
    attacks = list(
        dict.fromkeys(attack for document in documents for attack in document["results"]["settings"]["attacks"]["run"])
    )
    for document in documents:
        results = document["results"]
        parameters = results["setup"].get("parameters", {})
        total = parameters.get("total") if isinstance(parameters, dict) else None
        protocol = results["settings"]["perplexity"]["protocols"][0]
        for arm in results["arms"]:
            entry = results["quality"][arm][protocol]
            row: dict[str, Cell] = {
                "study": results["study"],
                "parameters": total,
                "arm": arm,
                "nats_per_token": entry["nats_per_token"],
                "bits_per_byte": results["quality"][arm].get("rolling", entry)["bits_per_byte"],
                "cost": entry["cost"],
            }
            for attack in attacks:
                forms = results["damage"][arm].get(attack)
                row[attack] = forms[main_form(forms, attack)]["J"] if forms else None
            arms.append(row)
        for cell in results["primary"]:
            outcomes = {outcome.column: cell["outcomes"][outcome.column]["difference"] for outcome in CLAIMED}
            claims.append(
                {
                    "study": results["study"],
                    "parameters": total,
                    "arm": cell["arm"],
                    "attack": cell["attack"],
                    "control": cell["control"],
                    **outcomes,
                    "p_adjusted": cell["p_adjusted"],
                    "verdict": WORDS[cell["verdict"]],
                    "seeds": outcomes[CLAIMED[0].column]["seeds"],
                }
            )
    shared = [Column("study", "study"), Column("parameters", "parameters"), Column("arm", "arm")]
    quality = [
        *shared,
        Column("nats_per_token", "nats/token"),
        Column("bits_per_byte", "bits/byte"),
        Column("cost", "rise, nats/token"),
    ]
    quality += [Column(attack, f"J {attack}") for attack in attacks]
    cells = [
        *shared,
        Column("attack", "attack"),
        Column("control", "control"),
        *[Column(outcome.column, outcome.title, 2) for outcome in CLAIMED],
        Column("p_adjusted", "p (Holm, per study)", 4),
    ]
    cells += [Column("verdict", "verdict"), Column("seeds", "seeds")]
    note = "bits/byte is the one measure of quality that compares across tokenizers. Studies are listed, never pooled."
    return [
        Table("studies", "Quality and damage across studies", note, quality, arms),
        Table("verdicts", "Verdicts across studies", note, cells, claims),
    ]


def compare_studies(paths: Sequence[Path], out: Path) -> list[Table]:
    """Read several final_results.json and write studies.csv, verdicts.csv and their LaTeX into ``out``."""
    tables = comparison([read(path) for path in paths])
    with whole_folder(out) as part:
        for table in tables:
            (part / f"{table.name}.csv").write_text(to_csv(table), encoding="utf-8")
            (part / f"{table.name}.tex").write_text(to_latex(table), encoding="utf-8")
    return tables
