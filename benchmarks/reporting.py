"""Time and memory of aggregation, figures and report, on studies without models.

    python benchmarks/reporting.py            a study as large as the default, then the large one
    python benchmarks/reporting.py --small    only the first

The large study has 5 seeds x 8 arms, five attacks in eight forms on 1,000 documents of
128 tokens, a tempered null per constrained run (about 390,000 rows), and as the sixth
attack the transfer matrix of all 40 runs on all 40 (1.6 million rows). Targets: 20 s for the small one on 2 cores; 2 minutes and 2 GB for
the large one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from isotone.records import canonical_json

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "unit"))

from synthetic_study import Planted, settings_of, study_settings, write_study  # noqa: E402

ARMS = ("baseline", "mlp_in", "mlp_both", "lift", "mlp_in_relu", "mlp_both_relu", "mlp_in_nnls", "mlp_both_nnls")


def run(name: str, *words: object) -> tuple[float, float, float]:
    """(seconds by the clock, seconds of CPU, peak memory in GB) of one program."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, words)], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed with status {status}")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def measure(label: str, top: Path, **options: object) -> None:
    """Write the study, run the three programs, print a line each."""
    study = study_settings(name=label, **options)  # type: ignore[arg-type]
    folder = write_study(top / label, study, Planted(context=128))
    size = sum(path.stat().st_size for path in folder.rglob("*.jsonl"))
    rows = sum(path.read_bytes().count(b"\n") for path in folder.rglob("attacks/*.jsonl"))
    replayed = sum(path.read_bytes().count(b"\n") for path in folder.rglob("transfer/*/*.jsonl"))
    print(f"{label}: {rows:,} attack rows, {replayed:,} replayed, {size / 1e6:,.0f} MB", flush=True)
    settings = canonical_json(settings_of(study))
    common = ["--settings", settings, "--folder", folder]
    outputs = [
        "--results",
        folder / "final_results.json",
        "--summary",
        folder / "summary.txt",
        "--tables",
        folder / "tables",
    ]
    steps = {
        "aggregate": outputs,
        "figures": ["--figures", folder / "figures"],
        "report": ["--report", folder / "report.html"],
    }
    total = [0.0, 0.0]
    for name, more in steps.items():
        clock, cpu, memory = run(name, *common, *more)
        total = [total[0] + clock, total[1] + cpu]
        print(f"  {name:<10} {clock:6.1f} s clock  {cpu:6.1f} s CPU  {memory:5.2f} GB", flush=True)
    page = (folder / "report.html").stat().st_size / 1e6
    print(f"  {'together':<10} {total[0]:6.1f} s clock  {total[1]:6.1f} s CPU; report {page:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="only the study of the default's size")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure("small", Path(name), transfer=("hotflip",))
        if not options.small:
            attacks = ("hotflip", "uat", "query", "random", "gcg")
            seeds = (42, 1337, 2024, 8888, 12345)
            measure("large", Path(name), arms=ARMS, seeds=seeds, attacks=attacks, documents=1000, transfer=("hotflip",))


if __name__ == "__main__":
    main()
