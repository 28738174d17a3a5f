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
from isotone.config.schema import as_mapping
from isotone.config.study import Study, read_study
from isotone.records import digest_of

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
    ``null_damage``: the same for the nulls of each arm.
    """

    base: float = 0.6
    damage: dict[str, float] = field(default_factory=dict)
    null_damage: dict[str, float] = field(default_factory=dict)
    clean: dict[str, float] = field(default_factory=lambda: {"mlp_in": 0.1, "mlp_both": 0.3, "lift": 0.02})
    seed_spread: float = 0.01
    document_spread: float = 0.15
    noise: float = 0.03
    doubling: float = 1.005
    hostile: str = ""
    context: int = 24


def study_settings(
    *,
    name: str = "synthetic",
    arms: tuple[str, ...] = ("baseline", "mlp_in", "mlp_both", "lift"),
    seeds: tuple[int, ...] = (42, 1337, 2024),
    attacks: tuple[str, ...] = ("hotflip", "uat", "query", "random"),
    nulls: tuple[str, ...] = ("tempered",),
    null_attacks: tuple[str, ...] = ("hotflip",),
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
                "scope": "none" if arm == "baseline" else "mlp_in" if "in" in arm else "mlp_both",
                "init": "keep" if arm == "baseline" else "abs",
            }
        }
        for arm in arms
    }
    raw = {
        "study": name,
        "seeds": list(seeds),
        "arms": scopes,
        "attacks": {"run": list(attacks), "transfer": list(transfer), "shared": {"documents": documents}}
        | (settings or {}),
        "controls": {"kinds": list(nulls), "attacks": list(null_attacks)},
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


def attack_rows(study: Study, planted: Planted, run: str, seed: int, attack: str) -> list[dict[str, Any]]:
    arm, _, kind = run.partition("~")
    count, flips = study.attacks.shared.documents, 5
    truth = planted.null_damage.get(arm, 0.0) if kind else planted.damage.get(arm, 0.0)
    document_D = _rng("document", attack).normal(0, planted.document_spread, count)
    rows = []
    spec, options = SPECS[attack], study.attacks.of(attack)
    universal = spec.universal(options)
    for variant in spec.variants(options):
        generator = _rng(study.study, run, seed, attack, variant)
        shift = _rng(run, seed, attack, "seed").normal(0, planted.seed_spread)
        strength = STRENGTH.get((attack, variant), 0.5)
        level = (planted.base + truth + shift) * strength
        J_D = level + document_D * strength + generator.normal(0, planted.noise, count)
        clean_D = 3.0 + planted.clean.get(arm, 0.0) + document_D
        for index in range(count):
            J, clean = float(J_D[index]), float(clean_D[index])
            context = [WORDS[(index + step) % len(WORDS)] + " " for step in range(planted.context)]
            if planted.hostile:
                context[3] = planted.hostile
            share = np.linspace(0, 1, flips + 1)
            gains = np.abs(generator.normal(J / flips, 0.05, flips))
            row: dict[str, Any] = {
                "attack": attack,
                "variant": variant,
                "document": f"chapter {index:04d}",
                "tokens": 120,
                "clean_nll": clean,
                "J": J,
                "self": J * 3,
                "total": J + 0.2,
                "top1_agreement": float(np.clip(0.9 - J / 4, 0, 1)),
                "kl": abs(J) / 2,
                "reference_degradation": (J + 0.2) / clean,
                "flips": []
                if universal
                else [
                    {"position": 2 + 4 * flip, "old": 5, "new": 9, "old_text": context[2 + 4 * flip], "new_text": " qz"}
                    for flip in range(flips)
                ],
                "distance": [
                    {"lo": 1, "hi": 2, "J": 2 * J, "tokens": 5},
                    {"lo": 2, "hi": 8, "J": 1.2 * J, "tokens": 25},
                    {"lo": 8, "hi": 128, "J": 0.6 * J, "tokens": 80},
                ],
                "ledger": {"forward_tokens": 6000, "backward_tokens": 600, "candidates": 40},
                "context": context,
            }
            if universal:
                row |= {
                    "trigger": [{"token": 9, "text": planted.hostile or "qz"}, {"token": 8, "text": "'"}],
                    "restart": 0,
                }
            else:
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
            rows.append(row)
    for variant in spec.doubled(options) if seed == study.seeds[0] and not kind else []:
        few = [row for row in rows if row["variant"] == variant][: study.attacks.shared.doubling]
        rows += [row | {"variant": f"{variant}~doubled", "J": row["J"] * planted.doubling} for row in few]
    return rows


def clean_rows(study: Study, planted: Planted, run: str, seed: int) -> list[dict[str, Any]]:
    arm = run.partition("~")[0]
    count = study.attacks.shared.documents
    document_D = _rng("clean").normal(0, planted.document_spread, count)
    noise_D = _rng(run, seed, "clean").normal(0, 0.01, count)
    rows = []
    for protocol in study.perplexity.protocols:
        for index in range(count):
            mean = 3.0 + planted.clean.get(arm, 0.0) + document_D[index] + noise_D[index]
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
    arm = run.partition("~")[0]
    write_json(base / "certificate.json", certificate(run))
    final = 3.0 + planted.clean.get(arm, 0.0)
    null = {"null": {"kind": "tempered", "found": True, "reason": "", "difference": 1e-4}} if "~" in run else {}
    result = {"steps": 40, "epochs": 1.0, "tokens": 81920, "start_loss": final + 1, "final_loss": final, "best": {"step": 40, "loss": final},
              "weights_sha256": digest_of([run, seed]), "bitwise": True, "certificate": certificate(run)["verdict"], "moved_share": 0.98, **null}  # fmt: skip
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
