"""Tables on the runs themselves: how recovery went, and what every run cost."""

from __future__ import annotations

from isotone.records import Json
from isotone.reporting.tables.table import Cell, Column, Table

Rows = list[dict[str, Cell]]


def training(results: Json) -> Table:
    """Steps, losses and weights of every run."""
    rows: Rows = []
    for run, result in results["training"].items():
        keep = ("steps", "epochs", "tokens", "start_loss", "final_loss", "bitwise", "moved_share")
        rows.append(
            {
                "run": run,
                **{key: result.get(key) for key in keep},
                "weights": str(result.get("weights_sha256", ""))[:12],
            }
        )
    columns = [
        Column("run", "run"),
        Column("steps", "steps"),
        Column("epochs", "epochs", 2),
        Column("tokens", "tokens"),
    ]
    columns += [
        Column("start_loss", "validation loss at step 0"),
        Column("final_loss", "at the end"),
        Column("moved_share", "weights moved"),
    ]
    columns += [Column("bitwise", "repeats bit for bit"), Column("weights", "weights")]
    return Table("training", "Recovery of every run", "Losses in nats per token.", columns, rows)


def costs(document: Json) -> Table:
    """Seconds, tokens, GPU hours and broken success criteria of every run; not part of the digest."""
    stages = sorted({stage for entry in document["costs"]["seconds"].values() for stage in entry})
    rows: Rows = []
    for run, entry in document["costs"]["seconds"].items():
        rows.append(
            {
                "run": run,
                **{stage: entry.get(stage) for stage in stages},
                "sum": sum(entry.values()),
                **document["costs"]["tokens"][run],
                "gpu_hours": document["costs"]["gpu_hours_by_run"][run],
                "flags": "; ".join(document["costs"]["flags"].get(run, [])) or None,
            }
        )
    columns = [Column("run", "run")] + [Column(stage, stage, 1) for stage in stages] + [Column("sum", "sum", 1)]
    columns += [
        Column("trained", "tokens trained on"),
        Column("forward", "forward tokens of attacks"),
        Column("backward", "backward tokens"),
    ]
    if document["costs"]["gpu_hours"]:
        columns.append(Column("gpu_hours", "GPU hours", 2))
    if any(document["costs"]["flags"].values()):
        columns.append(Column("flags", "success criteria broken"))
    return Table(
        "costs",
        "Cost of every run",
        "Seconds as the programs measured them. Forward and backward tokens count every form and the fresh starts.",
        columns,
        rows,
    )
