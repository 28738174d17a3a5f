"""Vectors instead of tokens: what gradients reach when nothing has to be a word.

`ball` moves the input vectors of the open positions within an L2 ball that holds every typical
change of K tokens: its radius is sqrt(K) times the median distance between two token vectors.
`prefix` puts free vectors in front of the text, each in the ball around the origin that holds
every token vector, so that it bounds a trigger of that length. Both climb the loss by normalised
gradients and keep the best point. Where either harms less than tokens do, gradients are masked:
they do not lead where damage is, and a weak gradient attack proves nothing.

Source: projected gradient ascent of Madry et al. 2018 (arXiv:1706.06083); soft prompts as an
attack: Schwinn et al. 2024 (arXiv:2402.09063).
"""

# Shape suffixes: B = texts, S = input positions, L = vectors in front, T = text tokens, D = width, P = pairs.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from isotone.attacks.objective import Ledger, check_numbers, damage
from isotone.attacks.spec import AttackSpec, Cost
from isotone.evaluation.streams import stream
from isotone.schema import setting

if TYPE_CHECKING:
    from torch import Tensor

    from isotone.attacks.context import Context
    from isotone.attacks.documents import Document
    from isotone.attacks.settings import Attacks
    from isotone.records import Json

    Project = Callable[[Tensor], Tensor]

STEP = 2.5  # all steps together go so many times the radius, as Madry et al. have it
PAIRS = 2048  # pairs of tokens whose distances the radius is the median of


@dataclass(frozen=True)
class Soft:
    """Input vectors that need not be tokens."""

    flips: int = setting(5, "changed tokens that the ball holds (K)", minimum=1)
    radius: float = setting(1.0, "of the ball, in median distances between two token vectors", exclusiveMinimum=0)
    length: int = setting(3, "vectors in front, form prefix", minimum=1)
    iterations: int = setting(20, "gradient steps", minimum=1)


@dataclass
class Climb:
    """The best point so far of each text.

    Attributes:
        vectors: what goes into the model, ``[S, D]`` per text.
        nll: losses there, ``[T]`` per text.
    """

    vectors: list[Tensor] = field(default_factory=list)
    nll: list[np.ndarray] = field(default_factory=list)
    damage: list[float] = field(default_factory=list)


def token_distance(context: Context) -> float:
    """Median L2 distance between the vectors of two allowed tokens."""
    from isotone.models import token_vectors

    allowed = context.vocabulary.allowed
    pairs_P2 = stream(context.seed, "soft", "distance").integers(len(allowed), size=(PAIRS, 2))
    pairs_P2 = pairs_P2[pairs_P2[:, 0] != pairs_P2[:, 1]]
    table_VD = token_vectors(context.objective.scorer.embedding).cpu()
    first_PD, second_PD = (table_VD[allowed[pairs_P2[:, side]]] for side in (0, 1))
    return float((first_PD - second_PD).norm(dim=-1).median())


def in_ball(moved: Tensor, radius: float) -> Tensor:
    """The nearest points of L2 balls around 0; all but the first axis belong to one point."""
    norm = moved.flatten(1).norm(dim=1).view(-1, *[1] * (moved.dim() - 1))
    return moved * (radius / norm.clamp_min(1e-30)).clamp_max(1.0)


def climb(
    context: Context, ids_BT: np.ndarray, clean_BT: np.ndarray, begin_BSD: Tensor, mask_BSD: Tensor, step: float, project: Project
) -> Climb:  # fmt: skip
    """Ascend the summed loss of the texts from ``begin_BSD``; each text by itself.

    Args:
        begin_BSD: input vectors, those in front of the text included.
        mask_BSD: 1 where a vector may move; broadcasts.
        step: length of each step, over all vectors of a text that move.
        project: from input vectors to the nearest that are allowed.
    """
    from isotone.evaluation.vectors import losses_and_slopes

    scorer, found = context.objective.scorer, Climb()
    kept_BT = context.objective.kept(ids_BT, ids_BT)
    vectors_BSD = project(begin_BSD)
    for turn in range(context.job.soft.iterations + 1):
        nll, grad_BSD = losses_and_slopes(scorer, vectors_BSD, ids_BT, kept_BT)
        harm_B = damage(nll, clean_BT, kept_BT)
        for row in range(len(ids_BT)):
            if turn == 0:
                found.vectors.append(vectors_BSD[row])
                found.nll.append(nll[row])
                found.damage.append(float(harm_B[row]))
            elif harm_B[row] > found.damage[row]:
                found.vectors[row], found.nll[row], found.damage[row] = vectors_BSD[row], nll[row], float(harm_B[row])
        grad_BSD = grad_BSD * mask_BSD
        norm_B11 = grad_BSD.flatten(1).norm(dim=1)[:, None, None].clamp_min(1e-30)
        vectors_BSD = project(vectors_BSD + step * grad_BSD / norm_B11)
    return found


def ball(context: Context, documents: Sequence[Document], ids_BT: np.ndarray, clean_BT: np.ndarray) -> Climb:
    """Move the vectors of the open positions within one L2 ball a text."""
    import torch

    from isotone.evaluation.vectors import vectors_of

    settings, scorer = context.job.soft, context.objective.scorer
    radius = settings.radius * settings.flips**0.5 * token_distance(context)
    start_BSD = vectors_of(scorer, ids_BT)
    mask_BSD = torch.zeros(*start_BSD.shape[:2], 1, device=start_BSD.device)
    front = start_BSD.shape[1] - (ids_BT.shape[1] - 1)  # input vectors in front of the text
    for row, document in enumerate(documents):
        mask_BSD[row, torch.from_numpy(document.eligible + front).to(mask_BSD.device)] = 1.0
    step = STEP * radius / settings.iterations
    return climb(
        context, ids_BT, clean_BT, start_BSD, mask_BSD, step, lambda now: start_BSD + in_ball(now - start_BSD, radius)
    )


def prefix(context: Context, documents: Sequence[Document], ids_BT: np.ndarray, clean_BT: np.ndarray) -> Climb:
    """Put vectors in front of each text, behind the prefix token; they start at random tokens."""
    import torch

    from isotone.evaluation.vectors import vectors_of
    from isotone.models import token_vectors

    settings, scorer = context.job.soft, context.objective.scorer
    table_VD = token_vectors(scorer.embedding)
    allowed = context.vocabulary.allowed
    radius = float(table_VD[torch.from_numpy(allowed).to(table_VD.device)].norm(dim=-1).max())
    drawn_BL = np.stack(
        [stream(context.seed, "soft", document.name).choice(allowed, settings.length) for document in documents]
    )
    text_BSD = vectors_of(scorer, ids_BT)
    front = text_BSD.shape[1] - (ids_BT.shape[1] - 1)
    inside = slice(front, front + settings.length)
    begin_BSD = torch.cat(
        [text_BSD[:, :front], table_VD[torch.from_numpy(drawn_BL).to(table_VD.device)], text_BSD[:, front:]], dim=1
    )
    mask_S1 = torch.zeros(begin_BSD.shape[1], 1, device=begin_BSD.device)
    mask_S1[inside] = 1.0

    def project(now_BSD: Tensor) -> Tensor:
        result_BSD = now_BSD.clone()
        result_BSD[:, inside] = in_ball(now_BSD[:, inside].flatten(0, 1), radius).view_as(now_BSD[:, inside])
        return result_BSD

    step = STEP * radius * settings.length**0.5 / settings.iterations
    return climb(context, ids_BT, clean_BT, begin_BSD, mask_S1, step, project)


FORMS = {"ball": ball, "prefix": prefix}


def rows(context: Context, documents: Sequence[Document]) -> dict[str, list[Json]]:
    """A row of each form for each document (all of one length)."""
    from isotone.attacks.measure import judged
    from isotone.evaluation.vectors import compare

    objective, settings = context.objective, context.job.soft
    ids_BT = np.stack([document.ids for document in documents])
    clean_BT = objective.scores(ids_BT)
    check_numbers(clean_BT, [document.name for document in documents])
    kept_T = objective.kept(ids_BT[0], ids_BT[0])
    length, passes = objective.tokens(ids_BT.shape[1]), settings.iterations + 1
    made: dict[str, list[Json]] = {}
    for form, search in FORMS.items():
        best = search(context, documents, ids_BT, clean_BT)
        check_numbers(np.stack(best.nll), [document.name for document in documents])
        more = settings.length if form == "prefix" else 0
        spent = Ledger(length + passes * (length + more), passes * (length + more), passes)
        made[form] = []
        for row, document in enumerate(documents):
            found = compare(objective.scorer, ids_BT[row], best.vectors[row], objective.temperature or 1.0)
            clean = float(clean_BT[row][kept_T].mean())
            harm = float((best.nll[row] - clean_BT[row])[kept_T].mean())
            made[form].append(
                {
                    "attack": "soft",
                    "variant": form,
                    "document": document.name,
                    "tokens": int(kept_T.sum()),
                    "window": len(document.ids),
                    "clean_nll": clean,
                    "J": harm,
                    "self": 0.0,
                    "total": harm,
                    **judged(objective, found, kept_T),
                    "published_degradation": harm / clean,
                    "published_success": bool(harm / clean > objective.success),
                    "flips": [],
                    "vectors": settings.length if form == "prefix" else settings.flips,
                    "distance": [],
                    "predicted": [],
                    "exact": [],
                    "ledger": spent.as_row(),
                    "context": [context.vocabulary.pieces[token] for token in document.ids],
                }
            )
    return made


def _cost(attacks: Attacks) -> Cost:
    settings, shared = attacks.soft, attacks.shared
    tokens = float(shared.documents * (2 * (shared.window + 1) + settings.length))
    return Cost(tokens * (settings.iterations + 4), tokens * (settings.iterations + 1))


SPEC = AttackSpec(
    name="soft",
    title="input vectors that need not be tokens",
    settings=Soft,
    rows=rows,
    variants=lambda settings: list(FORMS),
    prefers=tuple(FORMS),
    flips=lambda settings: settings.flips,
    front=lambda settings: settings.length,
    cost=_cost,
    sentence=lambda settings: (
        f"projected gradient ascent on input vectors ({settings.iterations} steps) within a ball that holds a typical change of "
        f"{settings.flips} tokens, and on {settings.length} free vectors in front of the text"
    ),
    beats=(("ball", "hotflip", "greedy"), ("ball", "strongest", "best"), ("prefix", "uat", "trigger")),
    curve=False,
)
