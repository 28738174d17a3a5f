"""The tables of a study, all from final_results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isotone.attacks.published import SUCCESS, SUCCESS_PAIRS
from isotone.records import Json, whole_folder
from isotone.reporting.figures.choice import in_order
from isotone.reporting.page.paper import write_paper
from isotone.reporting.tables import robustness
from isotone.reporting.tables.overview import by_seed, screening
from isotone.reporting.tables.published import published_pythia
from isotone.reporting.tables.published_t5 import published_meaning, published_t5, writes
from isotone.reporting.tables.runs import costs, training
from isotone.reporting.tables.table import Cell, Column, Table, to_csv, to_latex
from isotone.reporting.tables.written import generation, generation_after

Rows = list[dict[str, Cell]]


def _quality(results: Json) -> Table:
    rows: Rows = []
    for name in in_order(results, results["quality"]):
        protocols = results["quality"][name]
        for protocol, entry in protocols.items():
            rows.append(
                {"arm": name, "protocol": protocol, **{key: entry[key] for key in ("nats_per_token", "token_perplexity", "bits_per_byte", "word_perplexity", "cost", "documents", "excluded")}}
            )  # fmt: skip
    columns = [
        Column("arm", "arm"),
        Column("protocol", "protocol"),
        Column("nats_per_token", "nats/token"),
        Column("token_perplexity", "token perplexity", 2),
        Column("bits_per_byte", "bits/byte"),
        Column("word_perplexity", "word perplexity", 1),
        Column("cost", "rise against the baseline, nats/token"),
        Column("documents", "documents"),
        Column("excluded", "excluded"),
    ]
    note = "Ratio of sums over test documents, seeds averaged; an arm with ~ is a control of equal quality."
    return Table("quality", "Clean quality", note, columns, rows)


def _attacks(results: Json) -> Table:
    rows: Rows = []
    window = results["settings"]["attacks"]["shared"]["window"]
    for name in in_order(results, results["damage"]):
        attacks = results["damage"][name]
        for attack, variants in attacks.items():
            for variant, entry in variants.items():
                ledger = entry["ledger"]
                rows.append(
                    {
                        "arm": name,
                        "attack": attack,
                        "variant": variant,
                        **{key: entry.get(key) for key in ("changed_predictions", "damage_cal", "top1_agreement", "accuracy_lost", "J_cal", "J", "near", "far", "self", "total", "published_degradation", "published_success")},
                        "forward_tokens": ledger.get("forward_tokens"),
                        "backward_tokens": ledger.get("backward_tokens"),
                    }
                )  # fmt: skip
    columns = [
        Column("arm", "arm"),
        Column("attack", "attack"),
        Column("variant", "form"),
        Column("changed_predictions", "changed predictions per flip", 2),
        Column("damage_cal", "damage per flip, recalibrated", 2),
        Column("top1_agreement", "same top token"),
        Column("accuracy_lost", "hits lost per flip", 2),
        Column("J_cal", f"J@{window} recalibrated"),
        Column("J", f"J@{window}, nats/token"),
        Column("near", "near, nats/flip", 2),
        Column("far", "far, nats/flip", 2),
        Column("self", "self"),
        Column("total", "total"),
        Column("published_degradation", "relative rise of total loss"),
        Column("published_success", f"share above {100 * (SUCCESS_PAIRS if writes(results) else SUCCESS):.0f} %"),
        Column("forward_tokens", "forward tokens"),
        Column("backward_tokens", "backward tokens"),
    ]
    note = (
        f"J@{window}: mean rise of the loss of unchanged tokens in a window of {window} tokens; near: 1 to 5 tokens behind a change; "
        "recalibrated: each model at its own best temperature. The relative rise and its share are the published definition, for comparison."
    )
    return Table("attacks", "Damage by attack and arm", note, columns, rows)


def _success(results: Json) -> Table:
    thresholds = [f"{value:g}" for value in results["settings"]["report"]["thresholds"]]
    rows: Rows = []
    for name in in_order(results, results["damage"]):
        attacks = results["damage"][name]
        for attack, variants in attacks.items():
            for variant, entry in variants.items():
                rows.append(
                    {"arm": name, "attack": attack, "variant": variant}
                    | {key: entry["success"][key] for key in thresholds}
                )
    columns = [Column("arm", "arm"), Column("attack", "attack"), Column("variant", "form")]
    columns += [Column(key, f"J > {key}", 2) for key in thresholds]
    note = "Share of documents whose unchanged tokens lose more than a threshold in nats; first seed, Wilson interval."
    return Table("success", "Documents broken, by threshold", note, columns, rows)


def _comparisons(results: Json) -> Table:
    middle = sorted(results["settings"]["report"]["thresholds"])[len(results["settings"]["report"]["thresholds"]) // 2]
    rows: Rows = []
    for entry in results["comparisons"]:
        cell = entry["success"][f"{middle:g}"]
        rows.append(
            {
                "arm": entry["arm"],
                "against": entry["against"],
                "attack": entry["attack"],
                "variant": entry["variant"],
                "difference": entry["difference"],
                "p": entry["tests"]["claim"]["p"],
                "p_adjusted": entry.get("p_adjusted"),
                "p_documents": entry["tests"]["sign_flip_documents"]["p"],
                "d_paired": entry["d_paired"],
                "d_pooled": entry["d_pooled"],
                "mcnemar": cell["p"],
                "discordant": f"{cell['table'][0][1]}:{cell['table'][1][0]}",
            }
        )
    columns = [
        Column("arm", "arm"),
        Column("against", "against"),
        Column("attack", "attack"),
        Column("variant", "form"),
        Column("difference", "J less than there, nats/token"),
        Column("p", "p", 4),
        Column("p_adjusted", "p (BH)", 4),
        Column("p_documents", "p (documents, sign flip)", 4),
        Column("d_paired", "d paired", 2),
        Column("d_pooled", "d pooled", 2),
        Column("mcnemar", f"McNemar p, J > {middle:g}", 4),
        Column("discordant", "discordant"),
    ]
    note = "Paired by document and seed; positive: the arm loses less. The first p is for new seeds and new documents."
    return Table("comparisons", "All comparisons", note, columns, rows)


def _gates(results: Json) -> Table:
    columns = [
        Column("gate", "gate"),
        Column("arm", "arm"),
        Column("state", "state"),
        Column("difference", "paired mean, nats/token"),
        Column("violations", "documents against it", 2),
        Column("why", "remark"),
    ]
    note = "Passed where the lower bound of the paired mean is at least 0."
    return Table(
        "gates", "Gates", note, columns, [{c.key: gate.get(c.key) for c in columns} for gate in results["gates"]]
    )


def _certificates(results: Json) -> Table:
    keys = [
        "layer",
        "sublayer",
        "activation",
        "verdict",
        "vacuous",
        "input_space",
        "smallest_weight",
        "negatives",
        "entries",
        "falling_share",
    ]
    keys += ["falling_share_upper", "worst_violation", "monotone_units", "smallest_jacobian"]
    labels = {"falling_share": "falling share", "falling_share_upper": "upper bound"}
    rows: Rows = []
    for run, certificate in results["certificates"].items():
        for layer in certificate.get("layers", []):
            row: dict[str, Any] = {key: layer.get(key) for key in keys}
            rows.append(
                {
                    "run": run,
                    **{key: value if not isinstance(value, (dict, list)) else str(value) for key, value in row.items()},
                }
            )
    columns = [Column("run", "run")] + [Column(key, labels.get(key, key.replace("_", " ")), 4) for key in keys]
    note = "Computed on the weights that are used. vacuous: the norm in front centres its output, so that non-negativity restricts nothing."
    return Table("certificates", "Certificates by layer", note, columns, rows)


def _transfer(results: Json) -> list[Table]:
    tables = []
    for attack, entry in results["transfer"].items():
        targets = in_order(results, entry["matrix"])
        rows: Rows = [{"source": source, **entry["matrix"][source]} for source in targets]
        columns = [Column("source", "made on")] + [Column(target, f"replayed on {target}") for target in targets]
        note = "J in nats per token; the diagonal is another seed of the same arm where there is one."
        tables.append(Table(f"transfer_{attack}", f"Transfer of {attack}", note, columns, rows))
    return tables


def all_tables(document: Json) -> list[Table]:
    """Every table of a study, in the order of the report.

    Args:
        document: content of final_results.json.
    """
    results = document["results"]
    tables = [
        robustness.verdicts(results),
        robustness.primary(results),
        screening(results),
        _quality(results),
        by_seed(results),
        generation(results),
        generation_after(results),
        _attacks(results),
        _success(results),
        _comparisons(results),
    ]
    tables += [
        _gates(results),
        _certificates(results),
        training(results),
        *_transfer(results),
        *([published_t5(results), published_meaning(results)] if writes(results) else [published_pythia(results)]),
        costs(document),
    ]
    return [table for table in tables if table.rows]


def write_tables(folder: Path, document: Json) -> None:
    """Write every table as CSV and LaTeX into a new folder."""
    with whole_folder(folder) as part:
        for table in all_tables(document):
            (part / f"{table.name}.csv").write_text(to_csv(table), encoding="utf-8")
            (part / f"{table.name}.tex").write_text(to_latex(table), encoding="utf-8")
        write_paper(part / "paper", document)
