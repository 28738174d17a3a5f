"""Where the time of a study went, stage by stage, against the budget of the embedded default.

    python benchmarks/stage_times.py results/kjv

Reads the benchmark files that Snakemake wrote for each job. Seconds are wall-clock
seconds of jobs; several jobs run side by side, so they add up to more than the
study took. The budget is for two cores: jobs' seconds may sum to twice ten minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

# Seconds of all jobs of a stage together, two cores, after installation.
BUDGET = {
    "corpus": 5, "setup": 10, "tokenize": 15, "pretrain": 100, "starts": 30, "train": 195, "control": 130, "calibrate": 90, "transfer": 90,
    "perplexity": 160, "attack_documents": 5, "attacks": 550, "aggregate": 5, "figures": 10, "report": 5,
}  # fmt: skip


def stage_seconds(folder: Path) -> pd.DataFrame:
    """Jobs, summed and longest seconds per stage, from ``timings/``."""
    rows = []
    for path in sorted((folder / "timings").rglob("*.tsv")):
        stage = path.relative_to(folder / "timings").parts[0].removesuffix(".tsv")
        frame = pd.read_csv(path, sep="\t")
        rows.append({"stage": stage, "seconds": float(frame["s"].sum()), "memory_MB": frame["max_rss"].max()})
    if not rows:
        sys.exit(f"{folder}/timings holds nothing. Run the study first.")
    frame = pd.DataFrame(rows)
    return frame.groupby("stage").agg(
        jobs=("seconds", "size"), seconds=("seconds", "sum"), longest=("seconds", "max"), memory_MB=("memory_MB", "max")
    )


def main() -> int:
    table = stage_seconds(Path(sys.argv[1] if len(sys.argv) > 1 else "results/kjv"))
    table["budget"] = pd.Series(BUDGET)
    table["within"] = (table["seconds"] <= table["budget"]).map({True: "yes", False: "NO"})
    table = table.loc[
        [stage for stage in BUDGET if stage in table.index] + [stage for stage in table.index if stage not in BUDGET]
    ]
    print(table.round(1).to_string())
    print(f"\nall jobs: {table['seconds'].sum():.0f} s of {sum(BUDGET.values())} s")
    return 0 if (table["within"] == "yes").all() else 1


if __name__ == "__main__":
    sys.exit(main())
