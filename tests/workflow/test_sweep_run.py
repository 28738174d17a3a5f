"""The sweep's program on a trained study: it measures on validation text, and its winner is a study that can run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from tests.workflow.conftest import planned, run

SWEEP = ["scripts/sweep.py", "config/smoke.yaml", "sweep.yaml"]


def test_a_sweep_chooses_and_its_winner_is_a_study(copy_of_finished: Callable[[], Path]) -> None:
    folder = copy_of_finished()
    refused = run(folder, *SWEEP[:2])
    assert refused.returncode == 78 and "a sweep must not read" in refused.stderr
    (folder / "sweep.yaml").write_text("controls: {match: validation}\n")
    done = run(folder, *SWEEP, "--ceiling", "100")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "winner: mlp_both, written to winner.yaml" in done.stdout
    assert set(yaml.safe_load((folder / "winner.yaml").read_text())["arms"]) == {"baseline", "mlp_both"}
    documents = (folder / "results/smoke/sweep/documents/manifest.json").read_text()
    assert documents != (folder / "results/smoke/data/attack/manifest.json").read_text()  # not the test text
    assert planned(folder, "winner.yaml") == {}  # the same two arms, already there

    strict = run(folder, *SWEEP, "--ceiling", "1.0001", "--winner", "none.yaml")
    assert strict.returncode == 78 and not (folder / "none.yaml").exists()
    assert "above the ceiling of 1.0001" in strict.stdout and "is not relaxed" in strict.stderr
