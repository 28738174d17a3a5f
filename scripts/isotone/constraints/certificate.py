"""What the weights of a model prove about order, and what sampling shows beside it.

A certificate reads the weights that the model really uses. It promises order of each
feed-forward net from its own input, never of the whole transformer: attention and
norms in between keep no order.

Shape suffixes: B = sequences, T = positions, N = samples, D = width, F = hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from scipy import stats
from torch import Tensor

from isotone.config.constraint import Constraint
from isotone.constraints.bounds import certified_radius
from isotone.constraints.capture import capture
from isotone.constraints.comparable import vacuous
from isotone.constraints.coordinates import coordinates_of
from isotone.constraints.maps import weight_maps
from isotone.constraints.paths import Path, lowest_pre_activations, ordered_pairs, path_of
from isotone.constraints.scopes import constrained
from isotone.data.batch import Batch
from isotone.models.activations import SHAPES, base_name
from isotone.models.families import family_of
from isotone.models.parts import Projection, Sublayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERDICTS = ["certified", "conditional", "not_monotone_by_design", "violated"]  # from best to worst
SIGNED_MAPS = {"sign_frozen", "free"}
PAIRS, JACOBIAN_SAMPLES, JACOBIAN_SIDE = 256, 8, 256
EXPERTS = 8  # of a layer's experts, so many are sampled; the weights of all are checked
CONFIDENCE = 0.95
MOVED = 0.9


def weights_of(projection: Projection, cone: str) -> dict[str, Any]:
    """Smallest value, negatives and entries of a weight in its cone's coordinates, in the stored dtype.

    Centred coordinates are recomputed from the stored weight; what rounding does there (1e-6 of the
    largest entry) is no negative. What lies outside the cone's space counts as negative: it reaches the
    function and no coordinate shows it.
    """
    coordinates = coordinates_of(projection, cone)
    inside = coordinates.read(projection.stored)
    slack = 1e-6 * float(inside.abs().max()) if coordinates.side else 0.0
    outside = coordinates.write(inside) - projection.stored
    return {
        "role": projection.role,
        "smallest_weight": float(inside.min()),
        "negatives": int((inside < -slack).sum()) + int((outside.abs() > slack).sum()),
        "entries": inside.numel(),
        "tolerance": slack,
    }


def falling_share(path: Path, x_BTD: Tensor) -> tuple[float, float]:
    """Share of hidden units, over tokens, whose output falls when an input rises; and its upper bound.

    The bound is one-sided, 95 %, with sequences as the unit (tokens of one text depend on each other);
    if none falls it is 3 over the number of tokens. Zero where the activation proves it.
    """
    if path.non_decreasing and not path.gated:
        return 0.0, 0.0
    shares = torch.tensor(
        [
            float(
                torch.stack([slope_NF < 0 for slope_NF in path.unit_slopes(path.into(x_TD.double()))])
                .any(0)
                .double()
                .mean()
            )
            for x_TD in x_BTD
        ],
        dtype=torch.float64,
    )
    mean, count = float(shares.mean()), len(shares)
    if mean == 0:
        return 0.0, min(1.0, 3 / (x_BTD.shape[0] * x_BTD.shape[1]))
    if count < 2:
        return mean, 1.0
    reach = float(stats.t.ppf(CONFIDENCE, count - 1)) * float(shares.std()) / count**0.5
    return mean, min(1.0, mean + reach)


def order_test(path: Path, x_ND: Tensor, *, far: bool = False) -> dict[str, Any]:
    """Sample x <= x' (`ordered_pairs`) and compare f(x) <= f(x') in fp64."""
    low_ND, high_ND = ordered_pairs(path, x_ND, torch.Generator().manual_seed(0), far=far)
    below, above = path(low_ND), path(high_ND)
    fall_N = (below - above).amax(1)
    slack = 1e-10 * float(torch.maximum(below.abs().max(), above.abs().max()))
    falls_N = fall_N > slack
    return {
        "pairs": len(fall_N),
        "violations": int(falls_N.sum()),
        "worst_violation": float(fall_N.max()) if bool(falls_N.any()) else 0.0,
    }


def smallest_jacobian(path: Path, x_ND: Tensor) -> float:
    """The smallest sampled entry of df/dx at points ``x_ND``, all in the path's coordinates."""
    generator = torch.Generator().manual_seed(1)
    exit_DF = path.exit[0]
    rows = torch.randperm(len(exit_DF), generator=generator)[:JACOBIAN_SIDE].to(exit_DF.device)
    columns = torch.randperm(x_ND.shape[1], generator=generator)[:JACOBIAN_SIDE].to(exit_DF.device)
    jacobian: Tensor | float = 0.0
    for slope_NF, (weight_FD, _) in zip(path.unit_slopes(x_ND), path.entrances, strict=True):
        jacobian = jacobian + (exit_DF[rows] * slope_NF[:, None, :]) @ weight_FD[:, columns]
    return float(torch.as_tensor(jacobian).min())


def monotone_units(path: Path, sublayer: Sublayer, centring: bool, expert: int = 0) -> int:
    """Hidden units that are monotone whatever the text: weights in the cone, and pre-activations that
    cannot reach the part where the unit falls."""
    slack = 1e-6 * float(path.exit[0].abs().max()) if path.centred else 0.0
    within_F = (path.exit[0] >= -slack).all(0)
    for weight_FD, _ in path.entrances:
        within_F = within_F & (weight_FD >= -slack).all(1)
    if path.non_decreasing and not path.gated:
        return int(within_F.sum())
    if sublayer.norm is None:  # what the net reads has no bound
        return 0
    lowest = lowest_pre_activations(sublayer, centring, expert)
    if path.gated:
        within_F = within_F & (lowest[0] >= 0) & (lowest[1] >= 0)
    else:
        shape = SHAPES.get(base_name(path.activation_name))
        within_F = within_F & (lowest[0] >= shape.turn if shape else torch.zeros_like(within_F))
    return int(within_F.sum())


def verdict_of(path: Path, roles: set[str], needed: set[str], negatives: int, signed: bool) -> str:
    """The verdict on one sublayer.

    Args:
        roles: the roles that the arm constrains here.
        needed: every role on the path from the sublayer's input to its output.
        signed: whether the map promises no sign (the ablation arms).
    """
    if signed or not roles:
        return "not_monotone_by_design"
    if negatives:
        return "violated"
    if not needed <= roles:
        return "not_monotone_by_design"
    return "certified" if path.non_decreasing and not path.gated else "conditional"


def moved_share(model: PreTrainedModel, settings: Constraint, before: Mapping[str, Tensor]) -> float | None:
    """Share of constrained entries that differ from ``before`` (weights by name); None if none is constrained.

    Below 0.9 after a whole training run the constrained weights are frozen, as rounding in bf16 froze
    those of the published study.
    """
    changed = entries = 0
    for projection in constrained(model, settings):
        now, then = projection.stored, projection.part(before[projection.weight_name])
        changed += int((now != then.to(now)).sum())
        entries += now.numel()
    return changed / entries if entries else None


def _samples(path: Path, x_BTD: Tensor) -> dict[str, Any]:
    """What sampling shows of one net around the inputs ``x_BTD``."""
    share, upper = falling_share(path, x_BTD)
    x_ND = x_BTD.flatten(0, 1)
    samples = x_ND[torch.linspace(0, len(x_ND) - 1, min(PAIRS, len(x_ND))).long()]
    few = samples[:JACOBIAN_SAMPLES]
    points = torch.cat(
        [ordered_pairs(path, few, torch.Generator().manual_seed(2), far=away)[0] for away in (False, True)]
    )
    return {
        "falling_share": share,
        "falling_share_upper": upper,
        "near": order_test(path, samples),
        "far": order_test(path, samples, far=True),
        "smallest_jacobian": smallest_jacobian(path, points),
    }


def _summed(tests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Order tests of several nets as one."""
    return {
        "pairs": sum(test["pairs"] for test in tests),
        "violations": sum(test["violations"] for test in tests),
        "worst_violation": max(test["worst_violation"] for test in tests),
    }


def _layer(
    model: PreTrainedModel, sublayer: Sublayer, settings: Constraint, roles: Sequence[Projection], x_BTD: Tensor
) -> dict[str, Any]:
    family = family_of(model)
    count = max(1, sublayer.experts)
    sampled = sorted({round(index) for index in torch.linspace(0, count - 1, min(count, EXPERTS)).tolist()})
    name = family.activation_of(model.config)
    paths = [path_of(model, sublayer, name, settings.cone, expert) for expert in sampled]
    path = paths[0]
    weights = [weights_of(projection, settings.cone) for projection in roles]
    on_path = {projection.role for projection in roles}
    negatives = sum(entry["negatives"] for entry in weights)
    seen = [_samples(each, x_BTD) for each in paths]
    centring = family.centring(model)
    order = _summed([each["near"] for each in seen])
    units = [monotone_units(each, sublayer, centring, expert) for each, expert in zip(paths, sampled, strict=True)]
    signed = settings.map in SIGNED_MAPS
    return {
        "layer": sublayer.layer,
        "sublayer": sublayer.name,
        "verdict": verdict_of(path, on_path, set(family.roles), negatives, signed),
        "vacuous": bool(roles) and settings.cone == "elementwise" and not signed and vacuous(sublayer, centring),
        "input_space": _input_space(path, sublayer),
        "output_space": "the net's own output, in front of a norm" if sublayer.norm_behind else "the residual stream",
        "experts": sublayer.experts,
        "experts_sampled": len(sampled) if sublayer.experts else 0,
        "constrained": sorted(on_path),
        "weights": weights,
        "smallest_weight": min((entry["smallest_weight"] for entry in weights), default=None),
        "negatives": negatives,
        "entries": sum(entry["entries"] for entry in weights),
        "activation": path.activation_name,
        "non_decreasing": path.non_decreasing,
        "falling_share": sum(each["falling_share"] for each in seen) / len(seen),
        "falling_share_upper": max(each["falling_share_upper"] for each in seen),
        "worst_violation": order["worst_violation"],
        "pairs": order["pairs"],
        "violations": order["violations"],
        "far": _summed([each["far"] for each in seen]),
        "monotone_units": sum(units),
        "units": path.exit[0].shape[1] * len(paths),
        "smallest_jacobian": min(each["smallest_jacobian"] for each in seen),
        "bound": certified_radius(
            model, sublayer, name, x_BTD.flatten(0, 1), centred=centring, behind_gain=settings.cone == "strict"
        ),
    }


def _input_space(path: Path, sublayer: Sublayer) -> str:
    if path.centred:
        return "centred coordinates U^T x"
    return "features of the residual stream" if sublayer.norm is None else "features x of the norm's output"


def _all_pairs(tests: list[dict[str, Any]]) -> dict[str, Any]:
    pairs, violations = sum(test["pairs"] for test in tests), sum(test["violations"] for test in tests)
    worst = max(test["worst_violation"] for test in tests)
    return {"pairs": pairs, "violations": violations, "share": violations / pairs, "worst_violation": worst}


@torch.no_grad()
def certify(
    model: PreTrainedModel,
    settings: Constraint,
    ids_BT: Tensor | Batch,
    *,
    before: Mapping[str, Tensor] | None = None,
    stage: str = "start",
) -> dict[str, Any]:
    """The certificate of a model under an arm's constraint; plain data for certificate.json.

    Args:
        ids_BT: text whose activations are sampled (`calibration_ids`).
        before: constrained weights by name, as they were before training; gives ``moved_share``.
        stage: ``start``, ``trained`` or ``exported`` (the folder read back).

    Returns:
        ``verdict`` is the worst of the layers'; ``vacuous`` is true if every constrained layer's
        non-negativity restricts nothing. See docs/constraints.md.
    """
    sublayers = family_of(model).sublayers(model)
    by_layer: dict[int, list[Projection]] = {sublayer.layer: [] for sublayer in sublayers}
    for projection in constrained(model, settings):
        by_layer[projection.layer].append(projection)
    seen = capture(model, ids_BT, [sublayer.entrances[0].name for sublayer in sublayers], outputs=False)
    layers = []
    for sublayer in sublayers:
        x_ND = seen[sublayer.entrances[0].name].inputs_NI
        layers.append(_layer(model, sublayer, settings, by_layer[sublayer.layer], x_ND.unflatten(0, (len(ids_BT), -1))))
    touched = [layer for layer in layers if layer["constrained"]]
    moved = moved_share(model, settings, before) if before is not None else None
    return {
        "stage": stage,
        "verdict": max((layer["verdict"] for layer in layers), key=VERDICTS.index),
        "vacuous": bool(touched) and all(layer["vacuous"] for layer in touched),
        "scope": settings.scope,
        "cone": settings.cone,
        "map": settings.map,
        "layers": layers,
        "ordered_pairs": {**_all_pairs(layers), "far": _all_pairs([layer["far"] for layer in layers])},
        "moved_share": moved,
        "movement_guard": None if moved is None else moved > MOVED,
        "tokens": ids_BT.numel(),
        "maps": sorted(weight_maps(model, settings)),
    }
