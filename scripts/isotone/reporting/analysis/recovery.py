"""Whether training had levelled off: an arm that still improves is compared before it has recovered."""

from __future__ import annotations

import numpy as np

from isotone.records import Json
from isotone.reporting.evidence.read import Evidence
from isotone.training.telemetry.reading import read_history

FALL = 0.01  # a last tenth whose loss is this much below the tenth before has not levelled off
FEWEST = 20  # steps: below, a tenth is a step or two


def fall_of(losses: np.ndarray) -> float | None:
    """By which share the mean loss of the last tenth lies below that of the tenth before; None with too few steps."""
    tenth = len(losses) // 10
    if len(losses) < FEWEST:
        return None
    return 1 - float(losses[-tenth:].mean() / losses[-2 * tenth : -tenth].mean())


def recovery(evidence: Evidence) -> Json:
    """Per trained arm: ``fall``, the mean over its seeds, and ``recovered``; both None where steps are too few."""
    found: Json = {}
    for arm in evidence.study.arms:
        falls = []
        for run in evidence.runs_of(arm):
            rows = read_history(evidence.folder / run.folder / "history.csv")
            falls.append(fall_of(np.array([loss for row in rows if (loss := row.get("loss")) is not None])))
        known = [fall for fall in falls if fall is not None]
        fall = float(np.mean(known)) if falls and len(known) == len(falls) else None
        found[arm] = {"fall": fall, "recovered": None if fall is None else fall <= FALL, "seeds": len(falls)}
    return found


def sentences(found: Json) -> list[str]:
    """The arms that had not levelled off, or of which nothing can be said."""
    still = [f"{arm} ({entry['fall']:.1%})" for arm, entry in found.items() if entry["recovered"] is False]
    unknown = [arm for arm, entry in found.items() if entry["recovered"] is None]
    said = []
    if still:
        said.append(
            f"Not recovered, since the training loss of the last tenth is still more than {100 * FALL:g} % below the tenth before: "
            f"{', '.join(still)}. Verdicts hold for this budget of recovery and not for a longer one."
        )
    if unknown:
        said.append(
            f"Fewer than {FEWEST} steps of recovery, so nothing shows whether it had ended: {', '.join(unknown)}."
        )
    return said
