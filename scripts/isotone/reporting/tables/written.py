"""What models wrote, beside what nobody had to write; empty where a study writes nothing."""

from __future__ import annotations

from isotone.config.evaluation import Generation
from isotone.records import Json
from isotone.reporting.figures.choice import in_order
from isotone.reporting.tables.table import Cell, Column, Table
from isotone.schema import as_mapping

LABELS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum", "chrf": "chrF"}


def generation(results: Json) -> Table:
    """Clean loss, scores and lengths by arm; copying and the lead stand first."""
    found = results.get("generation")
    settings = as_mapping(Generation()) | results["settings"].get("generation", {})
    rows: list[dict[str, Cell]] = []
    if found:
        lead = f"lead: first {settings['lead']} sentences"
        for system, label in (("copy", "copy of the source"), ("lead", lead)):
            rows.append({"arm": label, **found["systems"][system]})
        protocol = results["settings"]["perplexity"]["protocols"][0]
        for arm in in_order(results, found["arms"]):
            entry = dict(found["arms"][arm])
            over = {f"over_{what}": (entry.pop(f"over_{what}") or {}).get("rougeLsum") for what in ("baseline", "copy")}
            rows.append({"arm": arm, "nll": results["quality"][arm][protocol]["nats_per_token"], **entry, **over})
    columns = [Column("arm", "arm"), Column("nll", "nats/token")]
    columns += [Column(key, label, 1) for key, label in LABELS.items()]
    columns += [
        Column("length_ratio", "length ratio", 2),
        Column("capped", "at the limit", 2),
        Column("over_baseline", "ROUGE-Lsum over the baseline", 1),
        Column("over_copy", "ROUGE-Lsum over copying", 1),
    ]
    return Table("generation", "What was written", _note(found or {}, settings), columns, rows)


def generation_after(results: Json) -> Table:
    """How far outputs fall when their sources are attacked."""
    found = (results.get("generation") or {}).get("after", {})
    rows: list[dict[str, Cell]] = []
    for arm in in_order(results, found):
        for attack, entry in found[arm].items():
            rows.append(
                {
                    "arm": arm,
                    "attack": attack,
                    "variant": entry["variant"],
                    "clean": entry["clean"]["rougeLsum"],
                    "attacked": entry["attacked"]["rougeLsum"],
                    "fall": entry["fall"]["rougeLsum"],
                    "fall_chrf": entry["fall"]["chrf"],
                    "less": (entry["less_than_baseline"] or {}).get("rougeLsum"),
                    "own": entry["own"]["rougeLsum"],
                    "own_chrf": entry["own"]["chrf"],
                    "changed": entry["changed"],
                }
            )
    columns = [
        Column("arm", "arm"),
        Column("attack", "attack"),
        Column("variant", "form"),
        Column("clean", "ROUGE-Lsum clean", 1),
        Column("attacked", "attacked", 1),
        Column("fall", "fall", 1),
        Column("less", "fall less than the baseline's", 1),
        Column("fall_chrf", "fall of chrF", 1),
        Column("own", "ROUGE-Lsum with its own clean output", 1),
        Column("own_chrf", "chrF with its own clean output", 1),
        Column("changed", "outputs that change", 2),
    ]
    note = (
        "The attack raises the loss of the reference; here the model writes once more from the attacked source. A model that "
        "writes badly has little to fall from: read the overlap with its own clean output (100: nothing changed) beside it. Paired by document."
    )
    return Table("generation_after", "What is written after an attack", note, columns, rows)


def _note(found: Json, settings: Json) -> str:
    beams, most = settings["beams"], settings["max_new_tokens"]
    search = "greedy" if beams == 1 else f"{beams} beams, length penalty {settings['length_penalty']:g}"
    unread = found.get("unreadable", 0)
    return (
        f"{search}, {settings['min_new_tokens']} to {most} new tokens, on {found.get('documents', 0)} documents. F1 with stemmer, "
        "times 100; Lsum reads one sentence a line on both sides; plain means over documents, seeds averaged, differences paired by "
        "document. Nats/token: loss of the reference, EOS included. At the limit: share of outputs that never ended."
        + (f" ROUGE reads no word of {unread} references, which count as 0." if unread else "")
    )
