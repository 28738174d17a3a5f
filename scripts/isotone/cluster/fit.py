"""Whether this Python fits the checkout: what a job asks in its first second, before torch is imported.

    PYTHONPATH=scripts python -m isotone.cluster.fit

Only the standard library is needed: whatever else is missing is the answer.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
NEEDED = (
    "torch",
    "transformers",
    "datasets",
    "safetensors",
    "numpy",
    "pandas",
    "snakemake",
    "snakemake-executor-plugin-slurm",
)


def environment_fault(lock: Path = ROOT / "requirements.lock") -> str | None:
    """What is missing or older than the lock in this Python, in one sentence with the fix; None if all is well.

    A local version ("2.13.0+cu130") counts as the locked one. ISOTONE_ENVIRONMENT_CHECK=off accepts anything.
    """
    if os.environ.get("ISOTONE_ENVIRONMENT_CHECK") == "off" or not lock.is_file():
        return None
    pins = dict(line.split("==", 1) for line in lock.read_text(encoding="utf-8").split() if "==" in line)
    wrong = []
    for name in NEEDED:
        try:
            found = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if name in pins and found != pins[name].split("+")[0]:
            wrong.append(f"{name} is {found}, the lock says {pins[name]}")
    if not wrong:
        return None
    return (
        f"The environment of {sys.executable} does not fit this checkout: {'; '.join(wrong)}. Bring it up to date with "
        "`make env` (or pip install -r requirements.lock in your conda environment), then start again. "
        "To go on as it is: export ISOTONE_ENVIRONMENT_CHECK=off."
    )


if __name__ == "__main__":
    if message := environment_fault():
        print(f"{message}\nisotone: failed (78): the environment does not fit this checkout", flush=True)
        sys.exit(78)
