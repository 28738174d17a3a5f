"""An arm whose loss still falls at the end is said not to have recovered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from isotone.reporting.analysis.recovery import fall_of, recovery, sentences
from isotone.reporting.evidence.read import load_evidence
from synthetic_study import study_settings, write_study


@pytest.mark.parametrize(
    ("losses", "fall"),
    [
        (np.full(50, 3.0), 0.0),
        (np.r_[np.full(40, 3.0), np.full(5, 2.0), np.full(5, 1.5)], 0.25),
        (np.linspace(2, 1, 19), None),  # too few steps
    ],
)
def test_the_fall_of_the_last_tenth(losses: np.ndarray, fall: float | None) -> None:
    assert fall_of(losses) == (None if fall is None else pytest.approx(fall))


def test_arms_that_still_improve_are_named(tmp_path: Path) -> None:
    study = study_settings(arms=("baseline", "mlp_in", "lift"), seeds=(7, 8), attacks=("hotflip",), documents=4)
    folder = write_study(tmp_path, study)
    for seed, arm in [(seed, arm) for seed in study.seeds for arm in ("mlp_in", "lift")]:
        path = folder / f"runs/{arm}/seed-{seed}/history.csv"
        head, *lines = path.read_text().splitlines()
        if arm == "lift":
            lines = lines[:10]
        else:
            lines = [
                ",".join([*line.split(",")[:3], f"{5 - 0.05 * step:.4f}", *line.split(",")[4:]])
                for step, line in enumerate(lines)
            ]
        path.write_text("\n".join([head, *lines]) + "\n")
    found = recovery(load_evidence(study, folder))
    assert found["baseline"]["recovered"] is True and found["mlp_in"]["recovered"] is False
    assert found["lift"] == {"fall": None, "recovered": None, "seeds": 2}
    still, unknown = sentences(found)
    assert "mlp_in (" in still and "baseline" not in still and "lift" not in still and "Not recovered" in still
    assert unknown.endswith(": lift.")
    assert sentences({"baseline": found["baseline"]}) == []
