"""Every verdict of a study, again, from its rows: numpy and scipy only, nothing of Isotone.

    python tests/unit/recompute.py results/kjv

prints one line per arm, attack and control, and ends with 1 where final_results.json says something else.
Several seeds only: with one seed, intervals come from a bootstrap whose draws cannot be repeated elsewhere.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, stats

FORMS = {"hotflip": "greedy", "uat": "trigger", "query": "greedy", "random": "best_of_n", "gcg": "gcg"}


def read(folder: Path, run: str, seed: int, attack: str) -> dict[str, np.ndarray]:
    """clean loss, changed predictions and recalibrated damage per changed token; documents sorted by name."""
    found = {}
    for line in (folder / f"runs/{run}/seed-{seed}/attacks/{attack}.jsonl").read_text(encoding="utf-8").split("\n"):
        row = json.loads(line) if line else {}
        if row.get("variant") != FORMS[attack]:
            continue
        changes = len(row["flips"] or row.get("trigger", []))
        kept = row["tokens"] - len(row["flips"])
        found[row["document"]] = (
            row["clean_nll"],
            (1 - row["top1_agreement"]) * kept / max(1, changes),
            row["calibrated"]["J"] * kept / max(1, changes),
        )
    clean, predictions, damage = np.array([found[name] for name in sorted(found)]).T
    return {"clean": clean, "predictions": predictions, "damage": damage}


def on_curve(points: list[dict[str, np.ndarray]], arm: dict[str, np.ndarray], key: str) -> np.ndarray | None:
    """The curve's outcome at the arm's loss, linearised per document; None outside the curve."""
    points = sorted(points, key=lambda point: float(point["clean"].mean()))
    loss = arm["clean"].mean()
    for one, two in itertools.pairwise(points):
        low, high = one["clean"].mean(), two["clean"].mean()
        if low <= loss <= high:
            w = (loss - low) / (high - low)
            slope = (two[key].mean() - one[key].mean()) / (high - low)
            at = (1 - w) * one[key] + w * two[key]
            return at + slope * (arm["clean"] - (1 - w) * one["clean"] - w * two["clean"])
    return None


def interval_and_p(values: np.ndarray, confidence: float) -> tuple[float, float, float, float]:
    """Mean, interval and p of seeds crossed with documents: two variances, each with its own t."""
    S, N = values.shape
    rows, columns = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    mean = values.mean()
    rest = ((values - rows - columns + mean) ** 2).sum() / ((S - 1) * (N - 1))
    seeds = N * rows.var(ddof=1) / (S * N)
    documents = max(0.0, S * columns.var(ddof=1) - rest) / (S * N)
    error = np.sqrt(seeds + documents)
    if error <= 1e-14:
        return mean, mean, mean, float(mean == 0)

    def wide(alpha: float) -> float:
        t = stats.t.isf(alpha / 2, [S - 1, N - 1])
        return float((seeds * t[0] + documents * t[1]) / (seeds + documents))

    half, statistic = wide(1 - confidence) * error, abs(mean) / error
    p = float(np.exp(optimize.brentq(lambda x: wide(np.exp(x)) - statistic, -110.0, -1e-12)))
    return mean, mean - half, mean + half, p


def cells(folder: Path, results: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """(arm, attack, control) to intervals, mismatch, adjusted p and verdict."""
    settings = results["settings"]
    report, baseline = settings["report"], settings["report"]["baseline"]
    margins = {"predictions": report["smallest_change"], "damage": report["smallest_effect"]}
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for cell in results["primary"]:
        arm, attack, control = cell["arm"], cell["attack"], cell["control"]
        values: dict[str, list[np.ndarray]] = {"clean": [], "predictions": [], "damage": []}
        for seed in settings["seeds"]:
            own = read(folder, arm, seed, attack)
            if control == "early":
                names = sorted(folder.glob(f"runs/{baseline}~early-*"))
                points = [read(folder, path.name, settings["seeds"][0], attack) for path in names]
                for name, settings_of in settings["arms"].items():  # trained less, without a constraint
                    if name != baseline and settings_of["constraint"]["scope"] == "none":
                        own_seed = seed if settings_of["seeds"] == "all" else settings["seeds"][0]
                        points.append(read(folder, name, own_seed, attack))
                points.append(read(folder, baseline, seed, attack))
                theirs = {key: on_curve(points, own, key) for key in values}
            else:
                made = (folder / f"runs/{arm}~{control}").is_dir()
                theirs = read(folder, f"{arm}~{control}" if made else control, seed, attack)
            for key, column in values.items():
                column.append(theirs[key] - own[key])
        mismatch = float(np.mean(values["clean"]))
        entry: dict[str, Any] = {"mismatch": mismatch, "counted": abs(mismatch) <= report["mismatch"]}
        for key in ("predictions", "damage"):
            entry[key] = interval_and_p(np.stack(values[key]), report["confidence"])
        signs = {np.sign(entry[key][0]) for key in margins}
        entry["p"] = max(entry[key][3] for key in margins) if len(signs) == 1 else 1.0
        found[arm, attack, control] = entry
    counted = sorted((key for key in found if found[key]["counted"]), key=lambda key: found[key]["p"])
    highest = 0.0
    for rank, key in enumerate(counted):
        highest = max(highest, min(1.0, found[key]["p"] * (len(counted) - rank)))
        found[key]["p_adjusted"] = highest
    for entry in found.values():
        entry["verdict"] = word(entry, margins, 1 - report["confidence"])
    return found


def word(entry: dict[str, Any], margins: dict[str, float], alpha: float) -> str:
    """The verdict against one control."""
    if not entry["counted"]:
        return "unequal_quality"
    bounds = [(entry[key][1], entry[key][2], margin) for key, margin in margins.items()]
    inside = [-margin < low and high < margin for low, high, margin in bounds]
    above = [low > 0 and not within for (low, _, _), within in zip(bounds, inside, strict=True)]
    below = [high < 0 and not within for (_, high, _), within in zip(bounds, inside, strict=True)]
    if all(inside):
        return "equivalent"
    if all(above) and entry["p_adjusted"] < alpha:
        return "more_robust"
    if all(below) and entry["p_adjusted"] < alpha:
        return "less_robust"
    if (any(above) and any(below)) or (any(inside) and (any(above) or any(below))):
        return "outcomes_disagree"
    return "cannot_tell"


def overall(verdicts: dict[str, str]) -> str:
    """The word over all controls of an arm under an attack."""
    counted = {control: verdict for control, verdict in verdicts.items() if verdict != "unequal_quality"}
    if not [control for control in counted if control != "tempered"]:
        return "no_control"
    words = set(counted.values())
    if len(words) == 1:
        return words.pop()
    return "depends_on_the_control" if len(words - {"cannot_tell"}) > 1 else "cannot_tell"


def main(folder: Path) -> int:
    """Compare with final_results.json; how many verdicts differ."""
    results = json.loads((folder / "final_results.json").read_text(encoding="utf-8"))["results"]
    wrong = 0
    again = cells(folder, results)
    for cell in results["primary"]:
        entry = again[cell["arm"], cell["attack"], cell["control"]]
        same = entry["verdict"] == cell["verdict"]
        wrong += not same
        print(cell["arm"], cell["attack"], cell["control"], entry["verdict"], "" if same else f"NOT {cell['verdict']}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
