"""Universal attacks: search triggers on one set of documents, measure the best on another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isotone.attacks.context import Context
from isotone.attacks.documents import Document
from isotone.attacks.measure import distance_profile, predictions
from isotone.attacks.objective import Ledger, TextObjective, check_numbers
from isotone.attacks.spec import RESTART, Effort
from isotone.attacks.trigger import Slots, TriggerObjective, by_length, search_trigger
from isotone.evaluation.journal import Journal
from isotone.models import token_vectors
from isotone.records import Json


def find_triggers(
    name: str, context: Context, effort: Effort, documents: Sequence[Document], journal: Journal
) -> list[Json]:
    """Every restart's trigger, best on the fixed slice first; finished restarts come from the journal."""
    keys = {
        restart: f"restart {restart}"
        for restart in range(effort.restarts * context.restart, effort.restarts * (1 + context.restart))
    }
    todo = [restart for restart, key in keys.items() if key not in journal.done]
    if todo:
        embedding_VD = token_vectors(context.objective.scorer.embedding)
        propose = Slots(embedding_VD, context.vocabulary, effort.candidates, effort.topk)
        target = TriggerObjective(context.objective, documents, effort.length)
        for restart in todo:
            found = search_trigger(
                target,
                propose,
                context.vocabulary,
                restart=restart,
                iterations=effort.iterations,
                batch=effort.batch,
                seed=context.seed,
                attack=name,
                tokenizer=context.tokenizer,
            )
            journal.add([(keys[restart], found)])
    return sorted((journal.done[key] for key in keys.values()), key=lambda found: (-found["J"], found["restart"]))


def trigger_rows(
    objective: TextObjective,
    documents: Sequence[Document],
    trigger: Sequence[int],
    *,
    attack: str,
    variant: str,
    pieces: Sequence[str],
    restart: int,
    ledger: Json,
) -> list[Json]:
    """One row of schema ``attack/1`` per document; the search's ledger is spread evenly over them.

    Every text token counts as unchanged; ``self`` is the mean NLL of the trigger's own tokens and
    ``total`` the rise of the mean over trigger and text, as the published study measured it.
    """
    prefix = np.array(trigger, np.int64)
    target = TriggerObjective(objective, documents, len(prefix))
    first = objective.scored.start
    shares = _shares(ledger, len(documents))
    full = _full_losses(objective, documents, prefix)
    rows = []
    for index, document in enumerate(documents):
        full_T = full[index]
        own_T, nll_T = full_T[first : len(prefix)], full_T[len(prefix) :]
        clean_T = target.clean[index]
        clean, rise_T = float(clean_T[first:].mean()), nll_T - clean_T
        damage = float(rise_T[first:].mean())
        total = float(full_T[first:].mean()) - clean
        own = float(own_T.mean()) if len(own_T) else 0.0
        behind = np.concatenate([prefix, document.ids])
        kept_T = objective.kept(document.ids, document.ids)
        rows.append(
            {
                "attack": attack,
                "variant": variant,
                "document": document.name,
                "tokens": len(rise_T) - first,
                "window": len(document.ids),
                "clean_nll": clean,
                "J": damage,
                "self": own,
                "total": total,
                **predictions(objective, document.ids, behind, kept_T, len(prefix)),
                "published_degradation": total / clean,
                "published_success": bool(total / clean > objective.success),
                "flips": [],
                "curve": [
                    {"flips": 0, "J": 0.0, "self": 0.0, "total": 0.0, "forward_tokens": 0},
                    {
                        "flips": len(prefix),
                        "J": damage,
                        "self": own,
                        "total": total,
                        "forward_tokens": shares[index]["forward_tokens"],
                    },
                ],
                "distance": _profile(rise_T, first, len(prefix)),
                "predicted": [],
                "exact": [],
                "proposal_correlation": None,
                "tried": 0,
                "ledger": shares[index],
                "context": [pieces[token] for token in document.ids],
                "trigger": [{"token": int(token), "text": pieces[token]} for token in trigger],
                "restart": restart,
            }
        )
    return rows


def _full_losses(objective: TextObjective, documents: Sequence[Document], prefix: np.ndarray) -> list[np.ndarray]:
    """NLL of trigger and text, per document."""
    found: dict[int, np.ndarray] = {}
    for group in by_length(documents):
        nll_BT = objective.scores(np.stack([np.concatenate([prefix, documents[i].ids]) for i in group]))
        check_numbers(nll_BT, [documents[i].name for i in group])
        found.update(zip(group, nll_BT, strict=True))
    return [found[index] for index in range(len(documents))]


def _profile(rise_T: np.ndarray, first: int, length: int) -> list[Json]:
    changed = np.arange(length + len(rise_T)) < length
    rise = np.concatenate([np.zeros(length), rise_T])
    return distance_profile(rise, changed, np.arange(len(rise)) >= length + first)


def _shares(ledger: Json, count: int) -> list[Json]:
    """A shared ledger split so that the parts add up exactly."""
    return [{key: value // count + (index < value % count) for key, value in ledger.items()} for index in range(count)]


def attack(
    name: str,
    context: Context,
    effort: Effort,
    search: Sequence[Document],
    test: Sequence[Document],
    journal: Journal,
) -> tuple[list[Json], Json]:
    """Rows of the best restart's trigger, and what the marker tells of the search."""
    found = find_triggers(name, context, effort, search, journal)
    total = Ledger()
    for restart in found:
        total = total.plus(Ledger(**restart["ledger"]))
    pieces = context.vocabulary.pieces
    rows = trigger_rows(
        context.objective,
        test,
        found[0]["trigger"],
        attack=name,
        variant="trigger" + RESTART * bool(context.restart),
        pieces=pieces,
        restart=found[0]["restart"],
        ledger=total.as_row(),
    )
    triggers = [{**restart, "text": [pieces[token] for token in restart["trigger"]]} for restart in found]
    return rows, {"triggers": triggers}
