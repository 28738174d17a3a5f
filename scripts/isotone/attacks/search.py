"""One search for every attack that changes tokens in place.

A step asks for proposals, scores each exactly and keeps what is better. Greedy
search, beam search and GCG differ in their proposals and in whether a changed
position may change again.
"""

# Shape suffixes: B = texts or states, T = text tokens.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from isotone.attacks.objective import Ledger, TextObjective, check_numbers, damage
from isotone.attacks.proposals import Flip

if TYPE_CHECKING:
    from isotone.attacks.documents import Document


@dataclass
class State:
    """One variant of a text."""

    ids: np.ndarray
    order: list[int]  # changed positions, in the order of their first change
    nll: np.ndarray
    damage: float
    predicted: list[float] = field(default_factory=list)
    exact: list[float] = field(default_factory=list)


@dataclass
class Trace:
    """What a search found for one document.

    Attributes:
        best: for k = 0..K the best state with at most k changed tokens.
        spent: ledger when that state was found, k = 0..K.
        seen: exact rise of J, nats, of each (position, token) when it was last tried.
        tried: (predicted, exact) rise of the objective's sum, nats, of each candidate with a prediction.
        progress: (forward tokens, highest damage so far) after each step: the compute curve.
        gain: what the last doubling of the effort gained, relative; None if the effort was not doubled.
        ceiling: whether a ceiling of the effort ended the search while it still gained.
    """

    document: Document
    clean: np.ndarray
    best: list[State]
    spent: list[Ledger]
    ledger: Ledger
    tried: list[tuple[float, float]] = field(default_factory=list)
    seen: dict[tuple[int, int], float] = field(default_factory=dict)
    progress: list[tuple[int, float]] = field(default_factory=list)
    gain: float | None = None
    ceiling: bool = False


@dataclass(frozen=True)
class Plan:
    """The budget of a search.

    Attributes:
        flips: changed tokens a text may have (K).
        steps: rounds of proposals.
        beam: states that live on after a step (w).
        revise: whether changed positions may change again.
    """

    flips: int
    steps: int
    beam: int = 1
    revise: bool = False


@dataclass(frozen=True)
class Position:
    """A state that asks for proposals: which document, which step, which positions are open."""

    document: Document
    state: State
    clean: np.ndarray
    open: np.ndarray
    step: int
    rank: int
    seen: dict[tuple[int, int], float] = field(default_factory=dict)


Propose = Callable[[Sequence[Position], dict[str, Ledger]], list[list[Flip]]]


def open_positions(document: Document, state: State, plan: Plan) -> np.ndarray:
    """Where the next flip may go."""
    changed = state.ids != document.ids
    full = int(changed.sum()) >= plan.flips
    if plan.revise:
        return document.eligible[changed[document.eligible]] if full else document.eligible
    return document.eligible[:0] if full else document.eligible[~changed[document.eligible]]


def begin(objective: TextObjective, documents: Sequence[Document], flips: int) -> list[Trace]:
    """Score the unchanged texts (of equal length)."""
    clean_BT = objective.scores(np.stack([document.ids for document in documents]))
    check_numbers(clean_BT, [document.name for document in documents])
    traces = []
    for document, clean in zip(documents, clean_BT, strict=True):
        spent = Ledger(forward_tokens=objective.tokens(len(document.ids)))
        start = State(document.ids, [], clean, 0.0)
        traces.append(Trace(document, clean, [start] * (flips + 1), [spent] * (flips + 1), spent))
    return traces


def search(
    objective: TextObjective,
    documents: Sequence[Document],
    propose: Propose,
    plan: Plan,
    earlier: list[Trace] | None = None,
) -> list[Trace]:
    """Attack documents of equal length together; the result of each does not depend on the others.

    Args:
        earlier: traces of the same documents that this search adds to: it begins at the unchanged texts again, knows
            what was tried, and spends on top.
    """
    traces = begin(objective, documents, plan.flips) if earlier is None else earlier
    beams = [[trace.best[0]] for trace in traces]
    alive = set(range(len(traces)))
    for step in range(plan.steps):
        asking = [
            (index, Position(trace.document, state, trace.clean, places, step, rank, trace.seen))
            for index, trace in enumerate(traces)
            if index in alive
            for rank, state in enumerate(beams[index])
            if len(places := open_positions(trace.document, state, plan))
        ]
        if not asking:
            break
        ledgers = {trace.document.name: Ledger() for trace in traces}
        proposals = propose([position for _, position in asking], ledgers)
        children = score(objective, asking, proposals, traces, ledgers)
        for index in list(alive):
            trace = traces[index]
            trace.ledger = trace.ledger.plus(ledgers[trace.document.name])
            if not _keep(trace, beams, index, children[index], plan):
                alive.discard(index)
            trace.progress.append((trace.ledger.forward_tokens, trace.best[-1].damage))
    return traces


def score(
    objective: TextObjective,
    asking: Sequence[tuple[int, Position]],
    proposals: Sequence[Sequence[Flip]],
    traces: Sequence[Trace],
    ledgers: dict[str, Ledger],
) -> list[list[State]]:
    """The states that proposals lead to, scored exactly, for each of ``traces``; what was tried goes into its trace.

    Args:
        asking: index of the trace and the state that the proposals are for; its losses are known.
    """
    children: list[list[State]] = [[] for _ in traces]
    flat = [
        (row, index, position, flip)
        for row, ((index, position), flips) in enumerate(zip(asking, proposals, strict=True))
        for flip in flips
    ]
    if not flat:
        return children
    known_BT = np.stack([position.state.ids for _, position in asking])
    rows, places, tokens = np.array([(row, flip.position, flip.token) for row, _, _, flip in flat]).T
    ids_BT = known_BT[rows]
    ids_BT[np.arange(len(flat)), places] = tokens
    nll_BT = objective.flips(known_BT, np.stack([position.state.nll for _, position in asking]), rows, places, tokens)
    check_numbers(nll_BT, [position.document.name for _, _, position, _ in flat])
    clean_BT = np.stack([position.clean for _, _, position, _ in flat])
    kept_BT = objective.kept(ids_BT, np.stack([position.document.ids for _, _, position, _ in flat]))
    damage_B = damage(nll_BT, clean_BT, kept_BT)
    before_B = [position.state.damage for _, _, position, _ in flat]
    for row, (_, index, position, flip) in enumerate(flat):
        state, ledger = position.state, ledgers[position.document.name]
        ledger.forward_tokens += objective.tokens(len(ids_BT[row]))
        ledger.candidates += 1
        # Both in J: the predicted sum is spread over the tokens that count once the flip is made.
        kept = int(kept_BT[row].sum())
        total = before_B[row] * int(objective.kept(state.ids, position.document.ids).sum())
        predicted = None if flip.gain is None else (total + flip.gain) / max(kept, 1) - before_B[row]
        exact = float(damage_B[row] - before_B[row])
        traces[index].seen[flip.position, flip.token] = exact
        if predicted is not None and not flip.remembered:
            traces[index].tried.append((predicted, exact))
        order = state.order if flip.position in state.order else [*state.order, flip.position]
        children[index].append(
            State(
                ids_BT[row],
                order,
                nll_BT[row],
                float(damage_B[row]),
                [*state.predicted, predicted] if predicted is not None else state.predicted,
                [*state.exact, exact],
            )
        )
    return children


def _keep(trace: Trace, beams: list[list[State]], index: int, children: list[State], plan: Plan) -> bool:
    """Move the beam on; returns whether anything can still change."""
    unique = {child.ids.tobytes(): child for child in reversed(children)}
    ranked = sorted(unique.values(), key=lambda child: -child.damage)
    for child in ranked:
        count = int((child.ids != trace.document.ids).sum())
        for flips in range(count, plan.flips + 1):
            if child.damage > trace.best[flips].damage:
                trace.best[flips], trace.spent[flips] = child, trace.ledger
    floor = min(state.damage for state in beams[index]) if plan.beam > 1 else beams[index][0].damage
    better = [child for child in ranked if child.damage > floor][: plan.beam]
    if plan.revise:
        if better:
            beams[index] = better
        return True
    beams[index] = better
    return bool(better)
