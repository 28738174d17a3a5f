"""Everything that only a GPU can show, on a machine with one GPU, in under 8 minutes.

    PYTHONPATH=scripts python -m benchmarks.gpu [--only card,training] [--budget 480] [--out FOLDER]

Each section runs in a process of its own, with a time limit. What is done is kept in FOLDER and skipped when the
command is given again (`--again` repeats it). The table goes to benchmarks/RESULTS.md. The exit code is 0 if every
promise that was judged holds, else 1. Without a GPU it says what it would do; `--tiny` runs it all on the CPU in a
form too small to judge speed.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.record import CUT, DONE, FAILED, MISSING, NO_TIME, Plan, Record

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Section:
    """One part of the program: the module ``benchmarks.gpu.<name>`` and its function ``run``."""

    seconds: int  # limit
    least: int  # seconds without which it is not begun
    promise: str


SECTIONS = {
    "card": Section(60, 10, "what the card does: rates of matrix products, bandwidth"),
    "determinism": Section(150, 50, "two runs give the same bits; SIGKILL and resume give the same bits"),
    "training": Section(180, 60, "rate of training of the 1.4B shape, step by step; peak memory against the estimate"),
    "loss": Section(60, 15, "loss and gradients equal those of the CPU"),
    "scoring": Section(60, 20, "scoring against a plain rolling loop in the manner of lm-evaluation-harness"),
    "attacks": Section(60, 20, "attack steps against a plain loop in the manner of nanoGCG"),
    "ranks": Section(75, 25, "two processes on one card train to the bits of one"),
    "tests": Section(90, 15, "the tests marked gpu"),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"sections, with commas between: {', '.join(SECTIONS)}")
    parser.add_argument("--budget", type=float, default=480, help="seconds in all")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/.cache/gpu", help="where results are kept")
    parser.add_argument("--again", action="store_true", help="repeat what is done")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, in seconds: shows that the program runs")
    return parser.parse_args()


def aside(work: Callable[[], None], seconds: float) -> int | None:
    """Run ``work`` in a fork; its exit code, or None if it was killed after ``seconds``.

    A fork shares the imports (torch takes seconds to load), but CUDA must not be up yet on this side.
    """

    def begin() -> None:
        os.setsid()
        work()

    child = multiprocessing.get_context("fork").Process(target=begin)
    child.start()
    child.join(seconds)
    if child.exitcode is None:
        os.killpg(child.pid or 0, signal.SIGKILL)
        child.join()
        return None
    return child.exitcode


def find_device() -> str:
    """``cuda`` if a fork can use one."""

    def ask() -> None:
        import torch

        sys.exit(0 if torch.cuda.is_available() else 1)

    return "cuda" if aside(ask, 60) == 0 else "cpu"


def work_on(name: str, record: Record, plan: Plan) -> Callable[[], None]:
    """The body of a section's process."""

    def work() -> None:
        try:
            importlib.import_module(f"benchmarks.gpu.{name}").run(record, plan)
            record.status = DONE
        except ModuleNotFoundError as error:
            record.status = MISSING
            record.note(f"package missing: {error.name}")
        except BaseException as error:
            record.status = FAILED
            traceback.print_exc()
            record.note(f"{type(error).__name__}: {str(error)[:600]}")
        record.write()

    return work


def carry_out(name: str, record: Record, plan: Plan, seconds: float) -> Record:
    """Run one section and note how it ended."""
    print(f"== {name}: {SECTIONS[name].promise}", flush=True)
    begun = time.monotonic()
    code = aside(work_on(name, record, plan), seconds)
    found = Record.read(record.path) or record
    found.seconds = round(time.monotonic() - begun, 1)
    if code is None:
        found.status = CUT
        found.notes.append(f"killed after {found.seconds:.0f} s; the rows above were found before")
    elif code or not found.status:
        found.status = FAILED
        found.notes.append(f"the process ended with {code}")
    found.write()
    print(f"   {found.status}, {found.seconds:.0f} s", flush=True)
    return found


def table(records: dict[str, Record]) -> str:
    """Markdown for benchmarks/RESULTS.md."""
    lines = ["| section | what | figure | wanted | holds |", "|---|---|---|---|---|"]
    for name, record in records.items():
        for row in record.rows:
            holds = {True: "yes", False: "**NO**", None: ""}[row.holds]
            lines.append(f"| {name} | {row.name} | {row.value} | {row.wanted} | {holds} |")
        if record.status != DONE:
            lines.append(f"| {name} | **{record.status}** | {'; '.join(record.notes[-1:])} | | |")
    return "\n".join(lines)


def main() -> int:
    options = arguments()
    names = [name for name in options.only.split(",") if name] or list(SECTIONS)
    if unknown := [name for name in names if name not in SECTIONS]:
        print(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}", file=sys.stderr)
        return 78
    begun = time.monotonic()
    sys.path.insert(0, str(ROOT / "scripts"))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT / "scripts"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    from isotone import environment

    environment.prepare()  # before torch
    import torch  # noqa: F401
    import transformers  # noqa: F401

    device = "cpu" if options.tiny else find_device()
    if device == "cpu" and not options.tiny:
        print("There is no GPU that torch can use here. On a machine with one, this command would show:")
        for name in names:
            print(f"  {name:<12} {SECTIONS[name].promise} (at most {SECTIONS[name].seconds} s)")
        print("--tiny runs all of it on the CPU, too small to judge.")
        return 0
    place = options.out / ("tiny" if options.tiny else "gpu")
    records = {}
    for name in names:
        path = place / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        known = Record.read(path)
        if known and known.status == DONE and not options.again:
            print(f"== {name}: done before", flush=True)
            records[name] = known
            continue
        left = options.budget - (time.monotonic() - begun)
        record = Record(path, device=device)
        if left < SECTIONS[name].least:
            record.status = NO_TIME
            record.notes.append(f"{left:.0f} s were left")
            records[name] = record
            continue
        plan = Plan(device, options.tiny, place / "work" / name)
        limit = SECTIONS[name].seconds * (4 if options.tiny else 1)
        records[name] = carry_out(name, record, plan, min(left, limit))
    text = table(records)
    (place / "table.md").write_text(text + "\n")
    print(f"\n{text}\n")
    failed = [f"{name}: {row.name}" for name, record in records.items() for row in record.rows if row.holds is False]
    failed += [f"{name}: {record.status}" for name, record in records.items() if record.status in (FAILED, CUT)]
    skipped = [f"{name} ({record.status})" for name, record in records.items() if record.status in (MISSING, NO_TIME)]
    print(f"{time.monotonic() - begun:.0f} s; {len(failed)} promises or sections failed: {'; '.join(failed) or 'none'}")
    if skipped:
        print(f"not run: {'; '.join(skipped)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
