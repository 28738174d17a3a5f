"""Run one study on this machine, from one command: what `make run` types.

Only one driver works in a checkout at a time. If an earlier one died (a kill, a
power cut), Snakemake's lock is stale: this program holds its own lock, so it
knows that no driver lives, unlocks, and goes on where the earlier one stood.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout
from isotone import errors
from isotone.layout import of_study
from isotone.studies.reading import study_of

LOCK = Path(".snakemake/isotone-driver.lock")


def snakemake(*arguments: str, quiet: bool = False) -> int:
    """Run Snakemake with this Python; returns its exit code."""
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(
        command, stdout=subprocess.DEVNULL if quiet else None, stderr=subprocess.DEVNULL if quiet else None
    ).returncode


def unlock(common: list[str]) -> None:
    """Remove what a dead driver locked; only called while holding our own lock."""
    locks = Path(".snakemake/locks")
    if locks.is_dir() and any(locks.iterdir()):
        print("An earlier run was cut off. Going on where it stood.", flush=True)
        snakemake(*common, "--unlock", quiet=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configfile", nargs="+", help="the study, and overlays on top of it")
    parser.add_argument("--profile", default="profiles/local")
    options, further = parser.parse_known_args()
    common = ["--profile", options.profile, "--configfile", *options.configfile]
    folder = Path("results") / study_of(options.configfile).study
    LOCK.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    try:
        with FileLock(LOCK, timeout=0):
            unlock(common)
            code = snakemake(*further, "--quiet", "rules", "host", *common)  # options that take lists come last
    except Timeout:
        raise errors.ConfigurationError(
            "Another run works in this folder. Wait for it, or stop it with Ctrl-C first."
        ) from None
    if code:
        print(
            f"\nNot finished. Logs: {folder}/logs/. The same command goes on where this one stopped.", file=sys.stderr
        )
        return code
    files = of_study(folder.name)
    made = [files.results, files.summary, files.tables, files.figures, files.report]
    if gone := [path for path in made if not Path(path).exists()]:
        raise errors.InputOutputError(
            f"Snakemake ended well, but {', '.join(gone)} is not there: something removed it meanwhile. "
            "The same command makes it again."
        )
    print(f"\n{(folder / 'experiment_summary.txt').read_text(encoding='utf-8')}")
    print(f"Done in {(time.monotonic() - started) / 60:.1f} minutes.")
    print(
        f"Report:  {folder}/report.html\nTables:  {folder}/tables/\nFigures: {folder}/figures/\nNumbers: {folder}/final_results.json"
    )
    return 0


if __name__ == "__main__":
    errors.run(main)
