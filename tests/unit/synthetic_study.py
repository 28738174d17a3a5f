"""A whole results folder in the published row schemas, with planted effects and no model.

Damage of document d on run r: base + arm effect + seed effect + document effect + noise,
so that every statistic of the report has a known truth.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from isotone.attacks.registry import SPECS
from isotone.attacks.spec import RESTART
from isotone.records import digest_of
from isotone.schema import as_mapping
from isotone.studies.study import Study, read_study

WORDS = ["and", "the", "lord", "said", "unto", "them", "go", "forth", "in", "peace", "water", "stone"]
STRENGTH = {
    ("hotflip", "greedy"): 1.0,
    ("hotflip", "one_shot"): 0.6,
    ("uat", "trigger"): 0.5,
    ("query", "greedy"): 0.7,
    ("gcg", "gcg"): 0.95,
    ("gcg", "trigger"): 0.55,
    ("random", "matched"): 0.2,
    ("random", "unigram"): 0.15,
    ("random", "best_of_n"): 0.4,
}


@dataclass
class Planted:
    """What the generator plants; nats unless said otherwise.

    ``damage``: J of each arm under hotflip relative to the baseline's ``base``;
    ``control_damage``: the same for all controls of an arm, or for one (``mlp_in~noised``);
    ``temperature``: what a run's temperature adds to J, and takes from no prediction and from no recalibrated loss;
    ``predictions``: what a run's share of changed predictions is above what its damage brings;
    ``curve``: label of a checkpoint to (clean loss, J), both relative to the baseline's;
    ``apart``: clean loss of a control relative to its arm's;
    ``dilution``: how many times as long the window is, with the same damage in it.
    """

    base: float = 0.6
    damage: dict[str, float] = field(default_factory=dict)
    control_damage: dict[str, float] = field(default_factory=dict)
    temperature: dict[str, float] = field(default_factory=dict)
    predictions: dict[str, float] = field(default_factory=dict)
    curve: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {"0.25": (0.6, 0.0), "0.5": (0.2, 0.0), "0.75": (0.05, 0.0)}
    )
    apart: dict[str, float] = field(default_factory=dict)
    dilution: int = 1
    clean: dict[str, float] = field(default_factory=lambda: {"mlp_in": 0.1, "mlp_both": 0.3, "lift": 0.02})
    seed_spread: float = 0.01
    document_spread: float = 0.15
    noise: float = 0.03
    restart: float = 1.005
    hostile: str = ""
    context: int = 24


def study_settings(
    *,
    name: str = "synthetic",
    arms: tuple[str, ...] = ("baseline", "mlp_in", "mlp_both", "lift"),
    seeds: tuple[int, ...] = (42, 1337, 2024),
    attacks: tuple[str, ...] = ("hotflip", "uat", "query", "random"),
    controls: tuple[str, ...] = ("tempered", "noised"),
    control_attacks: tuple[str, ...] = ("hotflip",),
    transfer: tuple[str, ...] = (),
    order: bool = False,
    documents: int = 32,
    resamples: int = 10_000,
    settings: dict[str, Any] | None = None,
    **report: Any,
) -> Study:
    scopes = {
        arm: {
            "constraint": {
                "scope": "none" if arm.startswith("baseline") else "mlp_in" if "in" in arm else "mlp_both",
                "init": "keep" if arm.startswith("baseline") else "lift" if arm == "lift" else "abs",
            }
        }
        for arm in arms
    }
    milestones = [0.25, 0.5, 0.75] if "early" in controls else []
    raw = {
        "study": name,
        "base": {"training": {"milestones": milestones}},
        "seeds": list(seeds),
        "arms": scopes,
        "attacks": {"run": list(attacks), "transfer": list(transfer), "shared": {"documents": documents}}
        | (settings or {}),
        "controls": {"kinds": list(controls), "attacks": list(control_attacks)},
        "order_preservation": {"run": order},
        "report": {"resamples": resamples, **report},
    }
    return read_study(raw, "synthetic")


def _rng(*keys: Any) -> np.random.Generator:
    return np.random.default_rng(int(digest_of([str(key) for key in keys])[:12], 16))


def write_json(path: Path, value: Any) -> None:
    """Without the library's fsync: hundreds of these files need to outlive no crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def write_marker(path: Path, stage: str, **parts: Any) -> None:
    write_json(path, {"stage": stage, **parts})


def _write_lines(path: Path, schema: str, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
    path.write_text("".join(encode({"schema": schema, **row}) + "\n" for row in rows), encoding="utf-8")


def planted_damage(planted: Planted, run: str) -> float:
    """J of a run relative to the baseline's."""
    arm, _, kind = run.partition("~")
    if kind.startswith("early-"):
        return planted.curve[kind.removeprefix("early-")][1]
    if kind:
        return planted.control_damage.get(run, planted.control_damage.get(arm, 0.0))
    return planted.damage.get(arm, 0.0)


def clean_loss(planted: Planted, run: str) -> float:
    """Clean loss of a run relative to the baseline's."""
    arm, _, kind = run.partition("~")
    if kind.startswith("early-"):
        return planted.curve[kind.removeprefix("early-")][0]
    return planted.clean.get(arm, 0.0) + planted.apart.get(run, 0.0)


def bins(J: float, unchanged: int) -> list[dict[str, Any]]:
    """Rises behind the changes that add up to J over all unchanged tokens: half of it near."""
    total = J * unchanged
    return [
        {"lo": 1, "hi": 1, "J": 0.3 * total / 5, "tokens": 5},
        {"lo": 4, "hi": 5, "J": 0.2 * total / 10, "tokens": 10},
        {"lo": 6, "hi": 8, "J": 0.2 * total / 15, "tokens": 15},
        {"lo": 9, "hi": 16, "J": 0.3 * total / 50, "tokens": 50},
    ]


def attack_rows(study: Study, planted: Planted, run: str, seed: int, attack: str) -> list[dict[str, Any]]:
    count, flips = study.attacks.shared.documents, 5
    _, _, kind = run.partition("~")
    longer = planted.dilution
    shrink = 115 / (120 * longer - flips)
    truth = planted_damage(planted, run)
    document_D = _rng("document", attack).normal(0, planted.document_spread, count)
    rows = []
    spec, options = SPECS[attack], study.attacks.of(attack)
    universal = spec.universal(options)
    unchanged = 120 * longer - (0 if universal else flips)
    for variant in spec.variants(options):
        generator = _rng(study.study, run, seed, attack, variant)
        shift = _rng(run, seed, attack, "seed").normal(0, planted.seed_spread)
        strength = STRENGTH.get((attack, variant), 0.5)
        level = (planted.base + truth + shift) * strength
        J_D = level + document_D * strength + generator.normal(0, planted.noise, count)
        clean_D = 3.0 + clean_loss(planted, run) + document_D
        for index in range(count):
            harm, clean = float(J_D[index]) * shrink, float(clean_D[index])
            J = harm + planted.temperature.get(run, 0.0) * shrink
            changed = float(np.clip(0.1 + J_D[index] / 4 + planted.predictions.get(run, 0.0), 0, 1)) * shrink
            context = [WORDS[(index + step) % len(WORDS)] + " " for step in range(planted.context)]
            if planted.hostile:
                context[3] = planted.hostile
            share = np.linspace(0, 1, flips + 1)
            gains = np.abs(generator.normal(J / flips, 0.05, flips))
            row: dict[str, Any] = {
                "attack": attack,
                "variant": variant,
                "document": f"chapter {index:04d}",
                "tokens": 120 * longer,
                "clean_nll": clean,
                "J": J,
                "self": J * 3,
                "total": J + 0.2,
                "top1_agreement": 1 - changed,
                "clean_accuracy": 0.4,
                "accuracy": 0.4 - changed / 3,
                "calibrated": {
                    "temperature": 1.0,
                    "J": harm,
                    "clean_nll": clean,
                    "distance": bins(harm, unchanged),
                },
                "kl": abs(J) / 2,
                "published_degradation": (J + 0.2) / clean,
                "flips": []
                if universal
                else [
                    {"position": 2 + 4 * flip, "old": 5, "new": 9, "old_text": context[2 + 4 * flip], "new_text": " qz"}
                    for flip in range(flips)
                ],
                "distance": bins(J, unchanged),
                "ledger": {"forward_tokens": 6000, "backward_tokens": 600, "candidates": 40},
                "context": context,
            }
            if universal:
                row |= {
                    "trigger": [{"token": 9, "text": planted.hostile or "qz"}, {"token": 8, "text": "'"}],
                    "restart": 0,
                }
            else:
                steps = [7, 15, 30, 46]
                row["compute"] = [{"forwards": passes, "J": J * passes / 46} for passes in steps]
                row["search"] = {"forwards": 46, "ceiling": False}
                row["curve"] = [
                    {
                        "flips": k,
                        "J": J * float(share[k]),
                        "self": 0.1 * k,
                        "total": J * float(share[k]),
                        "forward_tokens": 1200 * k,
                    }
                    for k in range(flips + 1)
                ]
            if spec.guided and variant == spec.primary(options):
                row |= {"predicted": (gains + generator.normal(0, 0.02, flips)).tolist(), "exact": gains.tolist()}
                row |= {"proposal_correlation": 0.5 + float(generator.normal(0, 0.05)), "tried": 40}
            rows.append(row)
    for variant in spec.restarted(options) if seed == study.seeds[0] and not kind else []:
        few = [row for row in rows if row["variant"] == variant][: study.attacks.shared.fresh_starts]
        rows += [row | {"variant": variant + RESTART, "J": row["J"] * planted.restart} for row in few]
    return rows


def clean_rows(study: Study, planted: Planted, run: str, seed: int) -> list[dict[str, Any]]:
    count = study.attacks.shared.documents
    document_D = _rng("clean").normal(0, planted.document_spread, count)
    noise_D = _rng(run, seed, "clean").normal(0, 0.01, count)
    rows = []
    for protocol in study.perplexity.protocols:
        for index in range(count):
            mean = 3.0 + clean_loss(planted, run) + document_D[index] + noise_D[index]
            tokens = 100 + index % 50
            rows.append(
                {"protocol": protocol, "document": f"test {index:04d}", "tokens": tokens, "bytes": tokens * 3, "words": tokens // 2,
                 "nll": float(mean * tokens), "excluded": False}
            )  # fmt: skip
        rows.append(
            {
                "protocol": protocol,
                "document": "test short",
                "tokens": 0,
                "bytes": 3,
                "words": 1,
                "nll": 0.0,
                "excluded": True,
            }
        )
    return rows


def certificate(run: str) -> dict[str, Any]:
    constrained = not run.startswith("baseline") and "~" not in run
    verdict = (
        ("conditional" if "both" in run or "lift" in run else "not_monotone_by_design") if constrained else "violated"
    )
    layers = [
        {"layer": layer, "sublayer": "feed_forward", "activation": "gelu", "verdict": verdict, "vacuous": constrained, "input_space": "all",
         "smallest_weight": 1e-5 if constrained else -0.08, "negatives": 0 if constrained else 32000, "entries": 65536,
         "falling_share": 0.12, "falling_share_upper": 0.13, "worst_violation": 0.02, "monotone_units": 17, "smallest_jacobian": -0.1}
        for layer in range(4)
    ]  # fmt: skip
    return {
        "verdict": verdict,
        "vacuous": constrained,
        "layers": layers,
        "ordered_pairs": {"pairs": 256, "violations": 0},
        "moved_share": 0.98,
        "stage": "trained",
    }


def write_run(folder: Path, study: Study, planted: Planted, run: str, seed: int) -> None:
    base = folder / "runs" / run / f"seed-{seed}"
    write_json(base / "certificate.json", certificate(run))
    final = 3.0 + clean_loss(planted, run)
    control = (
        {"control": {"kind": run.partition("~")[2], "found": True, "reason": "", "difference": 1e-4}}
        if "~" in run
        else {}
    )
    result = {"steps": 40, "epochs": 1.0, "tokens": 81920, "start_loss": final + 1, "final_loss": final, "best": {"step": 40, "loss": final},
              "weights_sha256": digest_of([run, seed]), "bitwise": True, "certificate": certificate(run)["verdict"], "moved_share": 0.98, **control}  # fmt: skip
    write_marker(
        base / "train.json",
        "train",
        settings={},
        inputs={},
        outputs={},
        result=result,
        cost={"seconds": 12.5, "hosts": ["a"]},
    )
    with open(base / "history.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "step",
                "epoch",
                "tokens",
                "loss",
                "validation_loss",
                "learning_rate",
                "tokens_per_second",
                "seconds",
                "stall_seconds",
            ]
        )
        noise = _rng(run, seed, "history").normal(0, 0.03, 41)
        for step in range(0, 41):
            loss = final + np.exp(-step / 10) + noise[step]
            writer.writerow(
                [
                    step,
                    step / 40,
                    step * 2048,
                    f"{loss:.4f}",
                    f"{loss:.4f}" if step % 20 == 0 else "",
                    1e-3,
                    15000,
                    step * 0.3,
                    0.0,
                ]
            )
    _write_lines(base / "perplexity.jsonl", "perplexity/1", clean_rows(study, planted, run, seed))
    write_marker(
        base / "perplexity.json", "perplexity", settings={}, inputs={}, outputs={}, result={}, cost={"seconds": 2.0}
    )
    if study.order_preservation.run:
        layers = {str(layer): {"share": 0.6 + 0.05 * layer, "shuffled": 0.5, "random": 0.49} for layer in range(1, 5)}
        _write_lines(base / "order.jsonl", "order/1", [{"layer": layer, "share": 0.6} for layer in range(1, 5)])
        write_marker(
            base / "order.json",
            "order",
            settings={},
            inputs={},
            outputs={},
            result={"layers": layers, "test_pairs": 90},
        )
    for attack in study.attacks_of(run):
        _write_lines(base / "attacks" / f"{attack}.jsonl", "attack/1", attack_rows(study, planted, run, seed, attack))
        universal = SPECS[attack].universal(study.attacks.of(attack))
        extra = {"triggers": [{"text": ["qz", "'"], "J": 0.4}]} if universal else {}
        write_marker(
            base / "attacks" / f"{attack}.json",
            "attack",
            settings={},
            inputs={},
            outputs={},
            result=extra,
            cost={"seconds": 9.0},
        )


def write_transfer(folder: Path, study: Study, planted: Planted) -> None:
    for attack in study.attacks.transfer:
        for target, seed in [pair for pair in study.runs() if "~" not in pair[0]]:
            rows = []
            for source, source_seed in [pair for pair in study.runs() if "~" not in pair[0]]:
                own = (source, source_seed) == (target, seed)
                level = planted.base * (1.0 if own else 0.5)
                spread_D = _rng(source, source_seed, target, seed).normal(0, 0.05, study.attacks.shared.documents)
                rows += [
                    {
                        "source": f"{source}/seed-{source_seed}",
                        "target": f"{target}/seed-{seed}",
                        "document": f"chapter {index:04d}",
                        "J": level + float(spread),
                    }
                    for index, spread in enumerate(spread_D)
                ]
            few = [row | {"variant": "crossed", "J": row["J"] * 0.9} for row in rows if row["source"] != row["target"]]
            rows = [row | {"variant": "greedy"} for row in rows] + [row for row in few if int(row["document"][-4:]) < 8]
            _write_lines(folder / "transfer" / attack / f"{target}-seed-{seed}.jsonl", "transfer/1", rows)


def write_events(folder: Path, study: Study) -> None:
    for index, (run, seed) in enumerate(pair for pair in study.runs() if "~" not in pair[0]):
        state = folder / "state" / digest_of([run, seed])
        state.mkdir(parents=True, exist_ok=True)
        kinds = [
            (0, "start", 1),
            (3, "save", 1),
            (5, "signal", 1),
            (6, "exit", 1),
            (9, "start", 2),
            (11, "save", 2),
            (14, "exit", 2),
        ]
        lines = [
            json.dumps({"time": f"2026-01-01T00:{index * 2 + minute:02d}:00.000+00:00", "event": kind, "pid": pid})
            for minute, kind, pid in kinds
        ]
        (state / "events.jsonl").write_text("\n".join(lines) + '\n{"time": "2026-01')
        (state / "heartbeat.json").write_text(json.dumps({"name": f"{run}/seed-{seed}"}))


def write_study(folder: Path, study: Study, planted: Planted | None = None) -> Path:
    """Write ``folder`` as a finished study would leave it; returns ``folder``."""
    planted = planted or Planted()
    for run, seed in study.runs():
        write_run(folder, study, planted, run, seed)
    write_transfer(folder, study, planted)
    write_events(folder, study)
    write_marker(
        folder / "setup.json", "setup", settings={}, inputs={}, outputs={},
        result={"parameters": {"total": 1_800_000, "feed_forward": 530_000}}, cost={"versions": {"torch": "2.13.0"}},
    )  # fmt: skip
    return folder


def settings_of(study: Study) -> dict[str, Any]:
    """What the programs get as --settings."""
    plain = as_mapping(study)
    del plain["operation"]
    return plain
