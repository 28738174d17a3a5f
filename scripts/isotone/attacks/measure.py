"""From an attacked text to a row: J, self, total, distance, agreement, cost.

Every state is scored afresh here, in full, so that a row never repeats what a
search believed. ``self`` is the rise of the loss at the changed positions (the new
token against the old); with n scored tokens of which k changed,
``n total = (n - k) J + k self``.
"""

# Shape suffixes: K = states of a document (0..K flips), T = text tokens.

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats

from isotone.attacks.objective import TextObjective, check_numbers
from isotone.attacks.search import Trace
from isotone.evaluation.scoring import Comparison
from isotone.records import Json

EDGES = (1, 2, 3, 4, 6, 9, 17, 33, 65, 129, 257)  # distance behind the nearest change, tokens: [1, 2) ... [4, 6) ...


def parts_of(nll_T: np.ndarray, clean_T: np.ndarray, changed_T: np.ndarray, scored_T: np.ndarray) -> dict[str, float]:
    """``J``, ``self`` and ``total``: mean rises in nats over unchanged, changed and all scored tokens; 0 over none."""
    rise_T = nll_T - clean_T

    def mean(mask_T: np.ndarray) -> float:
        return float(rise_T[mask_T].mean()) if mask_T.any() else 0.0

    return {"J": mean(scored_T & ~changed_T), "self": mean(scored_T & changed_T), "total": mean(scored_T)}


def distance_profile(rise_T: np.ndarray, changed_T: np.ndarray, scored_T: np.ndarray) -> list[Json]:
    """Mean rise of unchanged tokens by distance behind the nearest change in front of them."""
    places = np.arange(len(rise_T))
    last = np.maximum.accumulate(np.where(changed_T, places, -1))
    distance = np.where((last >= 0) & ~changed_T & scored_T, places - last, 0)
    bins = []
    for low, high in itertools.pairwise(EDGES):
        inside = (distance >= low) & (distance < high)
        if inside.any():
            bins.append({"lo": low, "hi": high - 1, "J": float(rise_T[inside].mean()), "tokens": int(inside.sum())})
    return bins


def predictions(
    objective: TextObjective, before_T: np.ndarray, after_T: np.ndarray, kept_T: np.ndarray, first: int = 0
) -> Json:
    """What unchanged tokens are predicted as, and their loss on the recalibrated model, if there is a temperature.

    Args:
        before_T, after_T: the text and the changed text; the latter may be longer in front.
        kept_T: tokens of the first that count.
        first: tokens that the second has in front of the first.
    """
    heat = objective.temperature
    found = objective.scorer.compare(torch.from_numpy(before_T), torch.from_numpy(after_T), heat or 1.0)
    return judged(objective, found, kept_T, first, objective.kept(before_T, before_T))


def judged(
    objective: TextObjective,
    found: Comparison,
    kept_T: np.ndarray,
    first: int = 0,
    scored_T: np.ndarray | None = None,
) -> Json:
    """`predictions` from a comparison that was made, at the model's own temperature if there is one.

    Args:
        scored_T: tokens that have a loss, changed ones among them; None: those that count.
    """
    heat = objective.temperature
    result: Json = {
        "top1_agreement": float(found.same.double().numpy()[kept_T].mean()),
        "clean_accuracy": float(found.right_before.double().numpy()[kept_T].mean()),
        "accuracy": float(found.right_after.double().numpy()[kept_T].mean()),
        "kl": float(found.kl.double().numpy()[kept_T].mean()),
    }
    if heat is not None:
        nll_T = found.nll_before.double().numpy()
        rise_T = found.nll_after.double().numpy() - nll_T
        scored_T = kept_T if scored_T is None else scored_T
        changed_T = np.concatenate([np.ones(first, bool), scored_T & ~kept_T])
        behind = distance_profile(
            np.concatenate([np.zeros(first), rise_T]), changed_T, np.concatenate([np.zeros(first, bool), scored_T])
        )
        result["calibrated"] = {
            "temperature": heat,
            "J": float(rise_T[kept_T].mean()),
            "clean_nll": float(nll_T[scored_T].mean()),
            "distance": behind,
        }
    return result


def rank_correlation(tried: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's correlation of predicted and exact gain; None without at least three differing pairs."""
    if len(tried) < 3:
        return None
    predicted, exact = np.array(tried).T
    if np.ptp(predicted) == 0 or np.ptp(exact) == 0:
        return None
    return float(stats.spearmanr(predicted, exact).statistic)


def effort_of(trace: Trace, length: int, damage: float) -> Json:
    """How hard the search tried: ``compute``, J against forward passes, and ``search``, why it ended.

    Args:
        length: input tokens of one forward pass.
        damage: J of the final text, measured.

    Returns:
        Empty for attacks that do not search. ``compute`` keeps the last point below each doubling of the passes.
    """
    if not trace.progress:
        return {}
    kept = {math.frexp(tokens / length)[1]: (tokens / length, found) for tokens, found in trace.progress[:-1]}
    last = trace.progress[-1][0] / length
    kept[math.frexp(last)[1]] = (last, damage)
    search: Json = {"forwards": round(last), "ceiling": trace.ceiling}
    if trace.gain is not None or trace.ceiling:  # a ceiling may come before the first doubling
        finite = trace.gain is not None and math.isfinite(trace.gain)
        search |= {"converged": not trace.ceiling, "last_gain": trace.gain if finite else None}
    return {"compute": [{"forwards": round(passes), "J": found} for passes, found in kept.values()], "search": search}


def flip_list(old: np.ndarray, new: np.ndarray, order: Sequence[int], pieces: Sequence[str]) -> list[Json]:
    """The changed tokens in the order in which they changed."""
    return [
        {
            "position": int(place),
            "old": int(old[place]),
            "new": int(new[place]),
            "old_text": pieces[old[place]],
            "new_text": pieces[new[place]],
        }
        for place in order
        if old[place] != new[place]
    ]


def rows(
    objective: TextObjective, traces: Sequence[Trace], *, attack: str, variant: str, pieces: Sequence[str]
) -> list[Json]:
    """One row of schema ``attack/1`` per trace."""
    flat = np.stack([state.ids for trace in traces for state in trace.best])
    fresh = _unique_scores(objective, flat)
    result, first = [], 0
    for trace in traces:
        nll_KT = fresh[first : first + len(trace.best)]
        first += len(trace.best)
        check_numbers(nll_KT, [trace.document.name] * len(nll_KT))
        result.append(_row(objective, trace, nll_KT, attack, variant, pieces))
    return result


def _unique_scores(objective: TextObjective, ids_BT: np.ndarray) -> np.ndarray:
    unique, back = np.unique(ids_BT, axis=0, return_inverse=True)
    return objective.scores(unique)[back.reshape(-1)]


def _row(
    objective: TextObjective, trace: Trace, nll_KT: np.ndarray, attack: str, variant: str, pieces: Sequence[str]
) -> dict[str, Any]:
    document, final = trace.document, trace.best[-1]
    clean_T, scored_T = nll_KT[0], objective.kept(document.ids, document.ids)
    curve: list[Json] = []
    for state, nll_T, spent in zip(trace.best, nll_KT, trace.spent, strict=True):
        changed_T = state.ids != document.ids
        measured = parts_of(nll_T, clean_T, changed_T, scored_T)
        curve.append({"flips": len(curve), **measured, "forward_tokens": spent.forward_tokens})
    changed_T = final.ids != document.ids
    kept_T = scored_T & ~changed_T
    clean = float(clean_T[scored_T].mean())
    relative = curve[-1]["total"] / clean
    return {
        "attack": attack,
        "variant": variant,
        "document": document.name,
        "tokens": int(scored_T.sum()),
        "window": len(document.ids),
        "clean_nll": clean,
        "J": curve[-1]["J"],
        "self": curve[-1]["self"],
        "total": curve[-1]["total"],
        "self_nll": float(nll_KT[-1][changed_T & scored_T].mean()) if (changed_T & scored_T).any() else 0.0,
        **predictions(objective, document.ids, final.ids, kept_T),
        "published_degradation": relative,
        "published_success": bool(relative > objective.success),
        "flips": flip_list(document.ids, final.ids, final.order, pieces),
        "curve": curve,
        "distance": distance_profile(nll_KT[-1] - clean_T, changed_T, scored_T),
        "predicted": final.predicted,
        "exact": final.exact,
        "proposal_correlation": rank_correlation(trace.tried),
        "tried": len(trace.tried),
        **effort_of(trace, objective.tokens(len(document.ids)), curve[-1]["J"]),
        "ledger": trace.ledger.as_row(),
        "context": [pieces[index] for index in document.ids],
    }
