"""What models wrote, beside what nobody had to write; empty where a study writes nothing."""

from __future__ import annotations

from isotone.records import Json
from isotone.reporting.figures.choice import in_order
from isotone.reporting.tables.table import Cell, Column, Table

LABELS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum", "chrf": "chrF"}


def generation(results: Json) -> Table:
    """Clean loss, scores and lengths by arm; copying and the lead stand first."""
    found, settings = results.get("generation"), results["settings"].get("generation", {})
    rows: list[dict[str, Cell]] = []
    if found:
        lead = f"lead: first {settings.get('lead', 3)} sentences"
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


def _note(found: Json, settings: Json) -> str:
    beams, most = settings.get("beams", 4), settings.get("max_new_tokens", 80)
    search = "greedy" if beams == 1 else f"{beams} beams, length penalty {settings.get('length_penalty', 1.0):g}"
    unread = found.get("unreadable", 0)
    return (
        f"{search}, {settings.get('min_new_tokens', 0)} to {most} new tokens, on {found.get('documents', 0)} documents. F1 with stemmer, "
        "times 100; Lsum reads one sentence a line on both sides; plain means over documents, seeds averaged, differences paired by "
        "document. Nats/token: loss of the reference, EOS included. At the limit: share of outputs that never ended."
        + (f" ROUGE reads no word of {unread} references, which count as 0." if unread else "")
    )
