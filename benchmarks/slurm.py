"""What the Slurm profile costs: the driver, and the time around a preemption. Needs root and the lab's packages.

    python -m benchmarks.slurm            all three figures, as JSON lines
    python -m benchmarks.slurm dry run preemption

- dry: CPU seconds and memory of `snakemake -n` over 1,000 jobs;
- run: the same of a driver that runs 200 trivial jobs (its sbatch and sacct calls included), and its wall time;
- preemption: a training run is preempted three times: seconds from the signal to the saved state, from the saved
  state to the first new step, less what Slurm itself takes between the two starts; steps lost; retries spent.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.slurm.conftest import free_ports
from tests.slurm.lab import NODES, Lab, probe
from tests.slurm.scene import Scene, checkout, quiet_run


def measured(lab: Lab, folder: Path, *options: str) -> dict[str, float]:
    """Run Snakemake on the probe workflow; CPU seconds (children included), peak memory and wall time."""
    began = time.monotonic()
    with open(folder / "driver.log", "w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *options], cwd=folder, env=lab.environment, stdout=log, stderr=log
        )
    _, status, usage = os.wait4(driver.pid, 0)
    if status:
        raise RuntimeError((folder / "driver.log").read_text()[-3000:])
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "wall_seconds": round(time.monotonic() - began, 1),
    }


def dry(lab: Lab, base: Path) -> dict[str, Any]:
    """A dry run of 1,000 jobs."""
    folder = probe(base / "dry")
    return {"jobs": 1000, **measured(lab, folder, "-n", "--quiet", "--config", "many=1000", "--", "many")}


def run(lab: Lab, base: Path) -> dict[str, Any]:
    """A driver of 200 trivial jobs, as users start it."""
    folder = probe(base / "run")
    options = ["--profile", "profiles/slurm", "--default-resources", "slurm_account=lab", "mem_mb=400", "runtime=5"]
    return {"jobs": 200, **measured(lab, folder, *options, "--config", "many=200", "--", "many")}


def seconds(first: str, second: str) -> float:
    """Seconds between two ISO times."""
    return round((datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds(), 2)


def preemption(lab: Lab, base: Path) -> dict[str, Any]:
    """Three preemptions of one run."""
    quiet = checkout(base / "quiet")
    scene = Scene(lab, quiet, quiet_run(quiet, ["baseline"]), base / "preempted", NODES[0])
    driver = scene.drive()
    for step in (50, 150, 250):
        with scene.hold(step) as job:
            scene.preempt(job)
    scene.finish(driver, requeues=3)
    signals, exits, resumes = scene.events("signal"), scene.events("exit"), scene.events("resume")
    rows = lab.say("sacct", "-X", "-D", "-n", "-P", "-j", scene.number, "-o", "Start,End").splitlines()
    starts, ends = zip(*(row.split("|") for row in rows), strict=True)
    return {
        "signal_to_saved": [seconds(s["time"], e["time"]) for s, e in zip(signals, exits, strict=False)],
        "saved_to_training": [seconds(e["time"], r["time"]) for e, r in zip(exits, resumes, strict=False)],
        "slurm_end_to_start": [seconds(ends[i], starts[i + 1]) for i in range(len(resumes))],
        "start_to_training": [
            round(datetime.fromisoformat(r["time"]).timestamp() - datetime.fromisoformat(starts[i + 1]).timestamp(), 2)
            for i, r in enumerate(resumes)
        ],
        "steps_lost": scene.lost(),
        "retries": driver.said.count("Trying to restart job"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["dry", "run", "preemption"], help="dry, run, preemption")
    chosen = parser.parse_args().what
    with tempfile.TemporaryDirectory(prefix="isotone-slurm-") as name:
        base = Path(name)
        base.chmod(0o755)
        lab = Lab(base / "lab", free_ports(32))
        try:
            lab.script("up")
            for what in chosen:
                print(json.dumps({"figure": what, **globals()[what](lab, base)}), flush=True)
        finally:
            lab.script("down")


if __name__ == "__main__":
    main()
