"""Titles and captions of all figures, in the order of the report; needs no plotting library."""

from __future__ import annotations

from isotone.records import Json


def captions(document: Json) -> list[tuple[str, str, str]]:
    """(name, title, caption) of every figure that a study can have."""
    results = document["results"]
    found = [
        (
            "excess",
            "Every arm against every control",
            "Control minus arm per changed token, with the interval of the claim: changed predictions (left) and recalibrated damage (right). "
            "Right of zero: more robust than that control. Grey: differences declared not to matter. Crossed out: not of equal quality.",
        ),
        (
            "quality_robustness",
            "Quality against robustness",
            "Clean loss against damage J. Lower is better on both axes. Hollow: controls of equal quality, made from the baseline.",
        ),
        (
            "scaling",
            "Loss and damage against tokens",
            "Arms that differ only in how long they were trained, joined by a line; bars: intervals over documents. Hollow: "
            "controls of equal quality, at the tokens of the arm that they belong to.",
        ),
        (
            "training",
            "Recovery",
            "Training loss per arm: mean over seeds, band from the lowest to the highest seed; hollow points: validation loss.",
        ),
        (
            "damage_flips",
            "Damage against changed tokens",
            "J after each accepted change, seeds averaged; bands: intervals over documents. Faint: controls of equal quality.",
        ),
        (
            "damage_compute",
            "Damage against compute",
            "J of the best text found with fewer than so many forward passes on a document (logarithmic), seeds averaged; "
            "bands: intervals over documents. A curve that still rises at its end belongs to a search that has not converged.",
        ),
        (
            "thresholds",
            "Documents broken, by threshold",
            "Share of documents whose J exceeds a threshold, for every threshold instead of one; mean over seeds.",
        ),
        (
            "flips_needed",
            "Changes withstood",
            "Kaplan-Meier estimate of the share of documents that still stand after so many changes; first seed, with intervals.",
        ),
        (
            "distance",
            "Damage by distance",
            "Mean rise of the loss of unchanged tokens by their distance behind the nearest change. The scale is logarithmic "
            "beyond plus or minus 0.1.",
        ),
    ]
    for attack in results["transfer"]:
        found.append(
            (
                f"transfer_{attack}",
                f"Transfer of {attack}",
                "J of changes found on one arm (row) and replayed on another (column).",
            )
        )
    found.append(
        (
            "order",
            "Order preservation by depth",
            "Share of probe coordinates in which the stronger sentence lies above the weaker one. Dotted: order shuffled; "
            "dashed: random directions.",
        )
    )
    found.append(
        (
            "timeline",
            "Time line of the runs",
            "When each run trained (grey), saved, was stopped by a signal and went on.",
        )
    )
    return found
