"""Do the tests have teeth? Each mechanism is broken in a copy, one at a time, and a test must fail.

    python benchmarks/mutations.py training [NUMBER ...]
    python benchmarks/mutations.py attacks [NUMBER ...]

The lists stand in `mutations_training.py` and `mutations_attacks.py`. Ends with 1 if one was missed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mutations_attacks
import mutations_training

ROOT = Path(__file__).resolve().parents[1]
LISTS = {"training": mutations_training.MUTATIONS, "attacks": mutations_attacks.MUTATIONS}


def bites(mutation: tuple[str, str, str, str, str], copy: Path) -> str:
    """``caught``, ``MISSED`` or why it could not be tried."""
    _, name, old, new, tests = mutation
    path = copy / name
    text = path.read_text()
    if text.count(old) != 1:
        return f"the text stands there {text.count(old)} times"
    path.write_text(text.replace(old, new))
    where, *more = tests.split()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{where}", *more]
    environment = os.environ | {"PYTHONPATH": f"{copy / 'scripts'}:{copy}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    path.write_text(text)
    return {0: "MISSED", 1: "caught"}.get(done.returncode, f"pytest ended with {done.returncode}: {done.stdout[-300:]}")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in LISTS:
        sys.exit(__doc__)
    mutations = LISTS[sys.argv[1]]
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        for name in ("scripts", "tests", "config"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for number in [int(word) for word in sys.argv[2:]] or range(len(mutations)):
            verdicts.append(bites(mutations[number], copy))
            print(f"{number:2} {mutations[number][0]:<60} {verdicts[-1]}", flush=True)
    return int(any(verdict != "caught" for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
