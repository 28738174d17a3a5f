"""The verdict per control, and the figures that each of them rests on."""

from __future__ import annotations

from isotone.records import Json
from isotone.reporting.analysis.outcomes import BESIDE, CLAIMED
from isotone.reporting.analysis.words import WORDS
from isotone.reporting.tables.table import Cell, Column, Table

Rows = list[dict[str, Cell]]


def verdicts(results: Json) -> Table:
    """One line per arm and attack: the word for all controls together, and what each control says."""
    names = list(dict.fromkeys(cell["control"] for cell in results["primary"]))
    rows: Rows = [
        {
            "arm": entry["arm"],
            "attack": entry["attack"],
            "word": WORDS[entry["word"]],
            **{control: WORDS[verdict] for control, verdict in entry["controls"].items()},
            "unavailable": "; ".join(f"{control}: {why}" for control, why in entry["unavailable"].items()) or None,
        }
        for entry in results["verdicts"]
    ]
    columns = [Column("arm", "arm"), Column("attack", "attack"), Column("word", "all controls")]
    columns += [Column(name, f"against {name}") for name in names]
    columns += [Column("unavailable", "not made")] if any(row["unavailable"] for row in rows) else []
    note = (
        "Controls have the arm's clean loss without its constraint. More or less robust: against every control; equivalent: all "
        "intervals inside the margins; else it depends on the control, or the data cannot tell. early: the same pretraining "
        "stopped earlier, read off at the arm's own loss."
    )
    return Table("verdicts", "Verdict per control", note, columns, rows)


def primary(results: Json) -> Table:
    """One line per arm, attack and control: both outcomes of the claim, and what stands beside them."""
    rows: Rows = []
    for cell in results["primary"]:
        first = cell["outcomes"][CLAIMED[0].column]["difference"]
        rows.append(
            {
                "arm": cell["arm"],
                "attack": cell["attack"],
                "control": cell["control"],
                **{outcome.column: cell["outcomes"][outcome.column]["difference"] for outcome in CLAIMED},
                "verdict": WORDS[cell["verdict"]],
                "p_adjusted": cell["p_adjusted"],
                "mismatch": cell["mismatch"],
                **{key: cell["beside"].get(key) for key in BESIDE},
                "seeds": first["seeds"],
                "documents": first["documents"],
                "seed_floor": cell["seed_floor"],
            }
        )
    window = results["settings"]["attacks"]["shared"]["window"]
    labels = {
        "accuracy_lost": "hits lost per flip",
        "near_cal": "near (1 to 5 tokens), recalibrated",
        "far_cal": "far, recalibrated",
        "damage": "damage per flip, nats",
        "near": "near",
        "far": "far",
        "J_cal": f"J@{window} recalibrated, nats/token",
        "J": f"J@{window}, nats/token",
    }
    columns = [Column("arm", "arm"), Column("attack", "attack"), Column("control", "control")]
    columns += [Column(outcome.column, outcome.title, 2) for outcome in CLAIMED]
    columns += [
        Column("verdict", "verdict"),
        Column("p_adjusted", "p (Holm)", 4),
        Column("mismatch", "clean loss apart"),
    ]
    columns += [Column(key, label) for key, label in labels.items() if any(row.get(key) for row in rows)]
    columns += [Column("seeds", "seeds"), Column("documents", "documents"), Column("seed_floor", "sign-flip floor", 4)]
    margins = " and ".join(f"{results['settings']['report'][outcome.margin]:g} {outcome.unit}" for outcome in CLAIMED)
    note = (
        "Control minus arm, paired by document and seed; positive: the arm is the more robust. A claim needs changed predictions and "
        f"recalibrated damage to point one way; differences inside {margins} do not matter. p: the larger of the two, Holm over all lines. "
        "Clean loss apart: the control's minus the arm's on the attacked text, nats per token."
    )
    return Table("primary", "Primary comparison: every arm against every control", note, columns, rows)
