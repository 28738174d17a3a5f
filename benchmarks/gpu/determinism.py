"""Two runs, the same bits; a run killed and resumed, the same bits. Through scripts/train.py, as the workflow starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.record import Plan, Record
from benchmarks.gpu.shapes import network, small, write_split

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINT = {"scope": "mlp_both", "init": "abs"}
OPERATION = {"tensorboard": False, "lease": 3.0, "lock_wait": 30, "save_every_steps": 2}


class Study:
    """Start, data and runs of one small study."""

    def __init__(self, plan: Plan) -> None:
        """Write model and data."""
        from isotone.config.constraint import Constraint
        from isotone.constraints import constrain

        self.folder, shape = plan.folder, small(plan)
        self.length = 32 if plan.tiny else 1024
        self.settings: dict[str, Any] = {
            "seed": 3,
            "constraint": CONSTRAINT,
            "training": {
                "epochs": 1,
                "global_batch": 8,
                "micro_batch_size": 2,
                "length": self.length,
                "learning_rate": 3e-4,
                "validation_blocks": 4,
                "precision": "fp32" if plan.tiny else "bf16",
            },
        }
        if not (self.folder / "start").exists():
            model = constrain(network(shape, self.length, "cpu"), Constraint(**CONSTRAINT))
            model.save_pretrained(self.folder / "start")
            write_split(self.folder / "train", 160, self.length, shape["vocab_size"], 1)
            write_split(self.folder / "validation", 8, self.length, shape["vocab_size"], 2)

    def command(self, place: Path, training: dict[str, Any] | None = None) -> list[str]:
        """The command line of one run; its results and state go below ``place``."""
        settings = {**self.settings, "training": {**self.settings["training"], **(training or {})}}
        words = {
            "settings": json.dumps(settings),
            "operation": json.dumps(OPERATION),
            "start": self.folder / "start",
            "train": self.folder / "train",
            "validation": self.folder / "validation",
            "study-folder": place,
            "name": "gpu/seed-3",
            "model": place / "model",
            "history": place / "history.csv",
            "certificate": place / "certificate.json",
            "marker": place / "train.json",
        }
        command = [sys.executable, str(ROOT / "scripts/train.py")]
        for key, value in words.items():
            command += [f"--{key}", str(value)]
        return command

    def begin(self, place: Path, training: dict[str, Any] | None = None) -> subprocess.Popen[bytes]:
        """Start the training program."""
        place.mkdir(parents=True, exist_ok=True)
        command = self.command(place, training)
        log = open(place / "log.txt", "ab")  # noqa: SIM115 - the child keeps it
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})


def result(place: Path) -> dict[str, Any]:
    """What stands in a run's marker."""
    marker = place / "train.json"
    if not marker.exists():
        raise RuntimeError(f"no result: {(place / 'log.txt').read_text()[-700:]}")
    found: dict[str, Any] = json.loads(marker.read_text())["result"]
    return found


def kill_at(run: subprocess.Popen[bytes], place: Path, step: int) -> str:
    """SIGKILL as soon as a checkpoint of ``step`` or later is there."""
    while run.poll() is None:
        there = [int(path.name.split("-")[1]) for path in place.glob("state/*/checkpoints.g*/step-*")]
        if any(number >= step for number in there):
            run.send_signal(signal.SIGKILL)
            run.wait()
            return f"killed with checkpoints of steps {sorted(there)}"
        time.sleep(0.02)
    return "ended before it could be killed"


def attention_probe(record: Record, plan: Plan) -> None:
    """Whether the backward pass of attention repeats bit for bit: as `training.deterministic` says, and in two weaker ways."""
    import torch
    from isotone.devices import choose_kernels

    sizes = (2, 2, 64, 16) if plan.tiny else (4, 16, 2048, 128)
    dtype = torch.float32 if plan.tiny else torch.bfloat16
    torch.manual_seed(0)
    inputs = [torch.randn(sizes, device=plan.device).to(dtype).requires_grad_() for _ in range(3)]

    def kinds() -> int:
        seen = set()
        for _ in range(4):
            made = torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=True)
            grads = torch.autograd.grad(made.float().square().sum(), inputs)
            seen.add(tuple(hash(grad.float().cpu().numpy().tobytes()) for grad in grads))
        return len(seen)

    choose_kernels(True)
    strict = kinds()
    torch.use_deterministic_algorithms(True, warn_only=True)
    warned = kinds()
    choose_kernels(False)
    record.row(
        "results of 4 backward passes of attention",
        f"{strict} where kernels must be deterministic, {warned} with warn_only, {kinds()} with any",
        "1 where they must be",
        strict == 1,
    )


def run(record: Record, plan: Plan) -> None:
    """Five runs beside each other on the one card: three plain, two compiled and with checkpointing (not on the CPU)."""
    study = Study(plan)
    names = ("one", "two", "killed") if plan.tiny else ("one", "two", "killed", "c-one", "c-two")
    places = {name: plan.folder / f"{name}-{int(time.time())}" for name in names}
    compiled = {"compile": True, "gradient_checkpointing": True}
    runs = {name: study.begin(place, compiled if "c-" in name else None) for name, place in places.items()}
    said = kill_at(runs["killed"], places["killed"], 6)
    runs["killed"] = study.begin(places["killed"])
    for child in runs.values():
        child.wait()
    found = {}
    for name, place in places.items():
        try:
            found[name] = result(place)
        except RuntimeError as error:
            record.row(f"run {name}", "no result", "ends with a marker", False)
            record.note(str(error))
    digests = {name: entry["weights_sha256"][:12] for name, entry in found.items()}
    losses = {name: entry["final_loss"] for name, entry in found.items()}

    def same(one: str, two: str, what: str) -> None:
        if one in digests and two in digests:
            equal = digests[one] == digests[two]
            text = digests[one] if equal else f"{digests[one]} and {digests[two]}, losses {losses[one]}, {losses[two]}"
            record.row(what, text, "same bits", equal)

    same(
        "one",
        "two",
        f"two runs, {small(plan)['hidden_size']} wide, {study.length} long, {study.settings['training']['precision']}",
    )
    same("one", "killed", f"SIGKILL and resume ({said})")
    same("c-one", "c-two", "two runs, layers compiled, checkpointing")
    attention_probe(record, plan)
    if "one" in found:
        record.row("what the marker says", f"bitwise {found['one']['bitwise']}, kernels {found['one']['kernels']}")
