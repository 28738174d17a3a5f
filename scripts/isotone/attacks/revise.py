"""Revision: a flip is given back, and the best replacement at any position takes its place.

Greedy search decides each flip once. Here a finished search goes on: one of the K flips
is released, the gradient of what is left proposes M flips, half of them at the released
position and half anywhere, each is scored exactly, and the best one stays if the text is
harmed more than before. The flips take turns. The effort doubles until two doublings in a row gain less
than `GAIN` each, or a ceiling of forward passes is reached.

What was measured teaches the proposals: by how much the estimates were off at a position
is added to the estimates of tokens that have not been tried there.
"""

# Shape suffixes: B = texts, T = text tokens, P = open positions, K = tokens kept.

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from isotone.attacks.gradient import DEEP, GradientProposals
from isotone.attacks.objective import Ledger, TextObjective, check_numbers, damage
from isotone.attacks.proposals import Flip, flipped, surviving
from isotone.attacks.search import Position, State, Trace, score

COUNT = 16  # flips scored in a round; 32 gave J within 2 %
GAIN = 0.02  # what a doubling of the effort must gain
PATIENCE = 2  # doublings in a row that gained less: the search has converged
PRIOR = 2.0  # an error measured n times at a position weighs n / (n + PRIOR)
TOLERANCE = 1e-6  # nats per token; less is rounding


@dataclass
class Task:
    """One document's revision: what it has, whose turn it is, and when its effort doubles next."""

    trace: Trace
    state: State
    goal: int  # tokens of forward passes at the next doubling
    before: float  # damage at the last one
    alive: bool = True
    round: int = 0
    small: int = 0  # doublings in a row that gained too little
    idle: int = 0  # rounds in a row without anything new to try and without a gain
    turns: list[int] = field(default_factory=list)
    errors: dict[int, list[float]] = field(default_factory=dict)

    def turn(self) -> int:
        """The position that gives its flip back: each in its turn, in the order in which they changed."""
        changed = set(np.flatnonzero(self.state.ids != self.trace.document.ids).tolist())
        self.turns = [place for place in self.turns if place in changed]
        self.turns = self.turns or [place for place in self.state.order if place in changed]
        return self.turns.pop(0)

    def error(self, places: np.ndarray) -> np.ndarray:
        """What to add to an estimate at each of some positions, nats."""
        found = [self.errors.get(place, []) for place in places.tolist()]
        return np.array([sum(errors) / (len(errors) + PRIOR) for errors in found])


@dataclass
class Revision:
    """`GradientProposals` that learn from what was measured, and the rounds in which they are used.

    Attributes:
        ceiling: forward passes of one document at which the search ends.
        count: flips scored exactly in a round (M).
        share: at most M / share of them are new ones at one other position.
        memory: M / memory of them are the best that were measured before.
        here: M / here of them are at the position that was given back.
    """

    gradients: GradientProposals
    ceiling: int
    count: int
    share: int = 8
    memory: int = 8
    here: int = 2

    def propose(self, task: Task, position: Position, table: tuple[np.ndarray, np.ndarray]) -> list[Flip]:
        """Other tokens at the released position, the best of what was measured before, and what was not tried yet.

        Estimates mislead most between positions, and flips that have survived stand where damage is. So half of
        the proposals stay there, as all of GCG's do once K positions have changed.
        """
        choice_PK, gain_PK = table
        tokenizer, allowed = self.gradients.tokenizer, self.gradients.vocabulary.allowed
        deep = DEEP if tokenizer else 1
        released = int(np.flatnonzero(task.state.ids != position.state.ids)[0])
        standing = (released, int(task.state.ids[released]))
        closed = position.seen.keys() | {standing}

        def untried(rows: np.ndarray, hoped_PK: np.ndarray, count: int, each: int) -> list[Flip]:
            """The best ``count``, at most ``each`` at one position, that survive."""
            found: list[Flip] = []
            used: Counter[int] = Counter()
            for index in np.argsort(-hoped_PK, axis=None, kind="stable"):
                row, column = divmod(int(index), hoped_PK.shape[1])
                place, token = int(position.open[rows[row]]), int(allowed[choice_PK[rows[row], column]])
                if len(found) == deep * count or not np.isfinite(hoped_PK[row, column]):
                    break
                if (place, token) not in closed and used[place] < deep * each:
                    used[place] += 1
                    found.append(Flip(place, token, float(gain_PK[rows[row], column])))
            return (found if tokenizer is None else surviving(position.state.ids, found, tokenizer))[:count]

        old = remembered(position, self.count // self.memory, standing)
        if tokenizer:
            old = surviving(position.state.ids, old, tokenizer)
        hoped_PK = gain_PK + task.error(position.open)[:, None]
        stay = np.flatnonzero(position.open == released)
        leave = np.flatnonzero(position.open != released)
        half = self.count // self.here
        near = untried(stay, hoped_PK[stay], half, half)
        wanted = self.count - len(old) - len(near)
        return [*old, *near, *untried(leave, hoped_PK[leave], wanted, max(1, self.count // self.share))]

    def __call__(self, objective: TextObjective, traces: Sequence[Trace]) -> None:
        """Revise finished searches of equally long documents, each by itself."""
        tasks = [
            Task(trace, trace.best[-1], 2 * trace.ledger.forward_tokens, trace.best[-1].damage) for trace in traces
        ]
        self._run(objective, tasks)

    def afresh(
        self, objective: TextObjective, traces: Sequence[Trace], starts: Sequence[Sequence[Flip]], first: int
    ) -> None:
        """The same from other starts, instead of a search that is finished.

        Args:
            traces: of unchanged texts; each gets what was found from its start.
            first: forward passes up to the first doubling, those that the search would have taken.
        """
        ids_BT = np.stack([flipped(trace.document.ids, flips) for trace, flips in zip(traces, starts, strict=True)])
        nll_BT = objective.scores(ids_BT)
        check_numbers(nll_BT, [trace.document.name for trace in traces])
        length, tasks = objective.tokens(ids_BT.shape[1]), []
        for trace, flips, ids, nll in zip(traces, starts, ids_BT, nll_BT, strict=True):
            harm = float(damage(nll, trace.clean, objective.kept(ids, trace.document.ids)))
            state = State(ids, [flip.position for flip in flips], nll, harm)
            trace.ledger = trace.ledger.plus(Ledger(forward_tokens=length, candidates=1))
            if harm > trace.best[-1].damage:
                trace.best[-1], trace.spent[-1] = state, trace.ledger
            tasks.append(Task(trace, state, first * length, 0.0))
        self._run(objective, tasks, first)

    def _run(self, objective: TextObjective, tasks: Sequence[Task], first: int = 0) -> None:
        length = objective.tokens(len(tasks[0].trace.document.ids))
        # Tokens from which no round begins: it would not end below the ceiling.
        limit = (self.ceiling - self.count if self.ceiling > first else first) * length
        for task in tasks:
            room = task.trace.ledger.forward_tokens < limit
            task.alive = bool(task.state.order) and room
            task.trace.ceiling = bool(task.state.order) and not room
            if not task.state.order:  # nothing harms this text
                task.trace.gain = 0.0
        while alive := [task for task in tasks if task.alive]:
            self._round(objective, alive)
            for task in alive:
                self._judge(task, limit)

    def _judge(self, task: Task, limit: int) -> None:
        """Whether the search goes on: its effort doubles until `PATIENCE` doublings gain too little, or the ceiling."""
        trace, spent = task.trace, task.trace.ledger.forward_tokens
        best = trace.best[-1].damage
        trace.progress.append((spent, best))
        if task.idle > len(task.state.order):  # every flip had its turn, and there is nothing left to try
            trace.gain, task.alive = 0.0, False
            return
        if spent >= task.goal:
            trace.gain = best / task.before - 1 if task.before > 0 else math.inf
            task.small = task.small + 1 if trace.gain < GAIN else 0
            task.before, task.goal = best, 2 * task.goal
        task.alive = task.small < PATIENCE and spent < limit
        trace.ceiling = task.small < PATIENCE and not task.alive

    def _round(self, objective: TextObjective, tasks: Sequence[Task]) -> None:
        ledgers = {task.trace.document.name: Ledger() for task in tasks}
        asking = [self._release(task) for task in tasks]
        most = max(max(Counter(place for place, _ in position.seen).values(), default=0) for position in asking)
        deep = DEEP if self.gradients.tokenizer else 1
        tables, losses = self.gradients.tables_and_losses(asking, ledgers, deep * self.count + most)
        for position, nll_T in zip(asking, losses, strict=True):
            state = position.state
            kept_T = objective.kept(state.ids, position.document.ids)
            state.nll, state.damage = nll_T, float(damage(nll_T, position.clean, kept_T))
        proposals = [self.propose(*parts) for parts in zip(tasks, asking, tables, strict=True)]
        traces = [task.trace for task in tasks]
        before = [len(trace.tried) for trace in traces]
        children = score(objective, list(enumerate(asking)), proposals, traces, ledgers)
        for index, (task, position) in enumerate(zip(tasks, asking, strict=True)):
            trace, hole = task.trace, position.state
            trace.ledger = trace.ledger.plus(ledgers[trace.document.name])
            fresh = [flip for flip in proposals[index] if not flip.remembered]
            kept = int(objective.kept(hole.ids, trace.document.ids).sum())
            for flip, (predicted, exact) in zip(fresh, trace.tried[before[index] :], strict=True):
                task.errors.setdefault(flip.position, []).append((exact - predicted) * kept)
            accepted = self._accept(task, hole, children[index])
            task.idle = 0 if accepted or fresh else task.idle + 1
            task.round += 1

    def _release(self, task: Task) -> Position:
        """The state without one of its flips; its losses are not known yet."""
        place, document = task.turn(), task.trace.document
        ids = task.state.ids.copy()
        ids[place] = document.ids[place]
        state = State(ids, [other for other in task.state.order if other != place], task.state.nll, 0.0)
        open_P = document.eligible[ids[document.eligible] == document.ids[document.eligible]]
        return Position(document, state, task.trace.clean, open_P, task.round, 0, task.trace.seen)

    def _accept(self, task: Task, hole: State, children: Sequence[State]) -> bool:
        """Take the best child if it harms more than what stood before."""
        trace, before = task.trace, task.state
        child = max(children, key=lambda child: child.damage, default=before)
        if child.damage <= before.damage + TOLERANCE:
            return False
        child.exact = [*before.exact, child.damage - before.damage]
        predicted = child.predicted[-1:] or [0.0]
        child.predicted = [*before.predicted, predicted[0] + hole.damage - before.damage]
        task.state = child
        if child.damage > trace.best[-1].damage:
            trace.best[-1], trace.spent[-1] = child, trace.ledger
        return True


def remembered(position: Position, count: int, standing: tuple[int, int]) -> list[Flip]:
    """The best of what was measured at earlier rounds and is open now, but for what stood there until this round."""
    places = set(position.open.tolist())
    kept = int((position.state.ids == position.document.ids).sum())
    options = [
        Flip(place, token, gain * kept, True)
        for (place, token), gain in position.seen.items()
        if place in places and position.document.ids[place] != token and (place, token) != standing
    ]
    return sorted(options, key=lambda flip: -(flip.gain or 0.0))[:count]
