"""Two tables over everything: arms side by side (scope screening), and every seed on its own."""

from __future__ import annotations

from isotone.records import Json
from isotone.reporting.analysis.words import WORDS
from isotone.reporting.figures.choice import in_order, main_form
from isotone.reporting.tables.table import Cell, Column, Table


def screening(results: Json) -> Table:
    """One line per arm: what it constrains, what that proves, costs and buys."""
    settings = results["settings"]
    protocol, attacks = settings["perplexity"]["protocols"][0], settings["attacks"]["run"]
    verdicts: dict[str, list[str]] = {}
    for claim in results["verdicts"]:
        verdicts.setdefault(claim["arm"], []).append(f"{claim['attack']}: {WORDS[claim['word']]}")
    rows: list[dict[str, Cell]] = []
    for arm in results["arms"]:
        constraint = settings["arms"][arm]["constraint"]
        certificate = next(found for key, found in results["certificates"].items() if key.startswith(f"{arm}/"))
        entry = results["quality"][arm][protocol]
        row: dict[str, Cell] = {
            "arm": arm,
            "scope": constraint["scope"],
            "start": constraint["init"],
            "map": constraint["map"] if constraint["scope"] != "none" else None,
            "certificate": certificate["verdict"].replace("_", " ")
            + (", vacuous" if certificate.get("vacuous") else ""),
            "perplexity": entry["token_perplexity"],
            "cost": entry["cost"],
            "excess": "; ".join(verdicts.get(arm, [])) or None,
        }
        for attack in attacks:
            forms = results["damage"][arm][attack]
            row[attack] = forms[main_form(forms, attack)]["J"]
        rows.append(row)
    columns = [Column(key, key) for key in ("arm", "scope", "start", "map", "certificate")]
    columns += [Column("perplexity", f"token perplexity ({protocol})", 2), Column("cost", "rise, nats/token")]
    columns += [Column(attack, f"J {attack}") for attack in attacks] + [Column("excess", "against equal quality")]
    return Table(
        "screening", "Arms side by side", "J in nats per token, lower is more robust; seeds averaged.", columns, rows
    )


def by_seed(results: Json) -> Table:
    """One line per run: clean loss and damage of every seed, nothing averaged over seeds."""
    settings = results["settings"]
    protocol, attacks = settings["perplexity"]["protocols"][0], settings["attacks"]["run"]
    rows: list[dict[str, Cell]] = []
    for name in in_order(results, results["quality"]):
        for seed, nats in sorted(results["quality"][name][protocol]["per_seed"].items(), key=lambda pair: int(pair[0])):
            row: dict[str, Cell] = {"arm": name, "seed": int(seed), "nats_per_token": nats}
            for attack in attacks:
                forms = results["damage"][name].get(attack)
                row[attack] = forms[main_form(forms, attack)]["per_seed"][seed] if forms else None
            rows.append(row)
    columns = [Column("arm", "arm"), Column("seed", "seed"), Column("nats_per_token", f"nats/token ({protocol})", 4)]
    columns += [Column(attack, f"J {attack}", 4) for attack in attacks]
    return Table("seeds", "Every seed", "Means over documents, one training run each, nats per token.", columns, rows)
