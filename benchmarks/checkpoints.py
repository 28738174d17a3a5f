"""Checkpoints against the disk's raw rate; resume and seek.

python benchmarks/checkpoints.py rates [--gigabytes 1] [--folder DIR]
python benchmarks/checkpoints.py resume
python benchmarks/checkpoints.py stall [--seconds 120]
python benchmarks/checkpoints.py seek
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from isotone.data.sample_order import samples
from isotone.training.checkpointing.manifest import drop_from_memory
from isotone.training.checkpointing.saver import Saver
from isotone.training.checkpointing.store import Store
from paired import compare, hardware, show

BLOCK = 8 << 20


def raw_write(path: Path, data: memoryview) -> None:
    with open(path, "wb", buffering=0) as file:
        for start in range(0, len(data), BLOCK):
            file.write(data[start : start + BLOCK])
        os.fsync(file.fileno())


def raw_read(path: Path, buffer: memoryview) -> None:
    with open(path, "rb", buffering=0) as file:
        position = 0
        while count := file.readinto(buffer[position : position + BLOCK]):
            position += count


def rates(options: argparse.Namespace) -> None:
    """Save and verified load of a large state over plain write + fsync and plain read, cache dropped."""
    size = int(options.gigabytes * 2**30)
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    state = {
        kind: {f"layer{i}": torch.randn(size // 12 // 32) for i in range(32)}
        for kind in ("weights", "exp_avg", "exp_avg_sq")
    }
    buffer = memoryview(bytearray(np.random.default_rng(0).bytes(BLOCK)) * (size // BLOCK))
    store = Store(folder, lambda *_, **__: None)
    raw = folder / "raw"

    def save() -> None:
        shutil.rmtree(store.path(1), ignore_errors=True)
        store.write(1, state, {"step": 1}, "bench")

    def load() -> None:
        for path in store.path(1).iterdir():
            drop_from_memory(path)
        store.read(1)

    def read() -> None:
        drop_from_memory(raw)
        raw_read(raw, buffer)

    try:
        show(
            f"save of {options.gigabytes} GB over raw write and fsync",
            compare({"raw": lambda: raw_write(raw, buffer), "save": save}, base="raw", wanted=0.05, turns=(5, 25)),
            "<= 1.25 (80 % of the raw rate)",
        )
        show(
            "verified load over raw read",
            compare({"raw": read, "load": load}, base="raw", wanted=0.05, turns=(5, 25)),
            "<= 1.25",
        )
    finally:
        shutil.rmtree(folder)


def seek(_: argparse.Namespace) -> None:
    """Blocks of any step of any corpus."""
    print(f"seek to the blocks of a random step, 32 samples   [{hardware()}]")
    for count in (10**4, 10**7, 10**10, 10**13):
        samples(0, count, 0, 32)
        times = []
        for start in np.random.default_rng(0).integers(0, 10**15, 200):
            begun = time.perf_counter()
            samples(0, count, int(start), 32)
            times.append(time.perf_counter() - begun)
        print(
            f"  {count:>16,} blocks: median {1e3 * statistics.median(times):.3f} ms, worst {1e3 * max(times):.3f} ms   (target 1 ms)"
        )


def embedded_state() -> tuple[Any, Any]:
    """Model and data of the embedded default's size."""
    from tests.resume import tiny

    tiny.LENGTH = 256
    folder = Path(tempfile.mkdtemp())
    study = tiny.Study(folder)
    tiny.write_model(
        study.start,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        vocab_size=2048,
        max_position_embeddings=256,
    )
    tiny.write_split(study.train, 512, 1)
    tiny.write_split(study.validation, 16, 2)
    return study, folder


def resume(_: argparse.Namespace) -> None:
    """From imports to the first step, as events.jsonl says it, in a process that has imported everything."""
    from tests.resume.runs import Case

    study, folder = embedded_state()
    case = Case(
        study,
        folder / "run",
        {
            "constraint": {"scope": "mlp_both", "init": "abs"},
            "training": {"length": 256, "global_batch": 8, "micro_batch_size": 8, "epochs": 2, "validation_blocks": 8},
        },
    )
    import subprocess

    case.study.start.rename(folder / "base")
    from isotone.config.constraint import Constraint
    from isotone.constraints import constrain
    from isotone.models import load_model, save_model

    save_model(constrain(load_model(folder / "base"), Constraint(scope="mlp_both", init="abs")), None, study.start)
    case.start(max_epochs_per_run=1).wait(600)
    state = next(path for path in (case.place / "state").iterdir() if path.is_dir())
    kept = folder / "kept"
    shutil.copytree(case.place, kept)
    times = []
    for _ in range(9):
        shutil.rmtree(case.place)
        shutil.copytree(kept, case.place)
        start = case.start(max_epochs_per_run=1)
        while not case.events("resume"):
            time.sleep(0.01)
        start.process.kill()
        start.wait()
        times.append(case.events("resume")[-1]["seconds"])
    print(f"resume after imports, 1.3 M parameters, {state.name[:8]}   [{hardware()}]")
    print(
        f"  median {statistics.median(times):.3f} s, of {len(times)}: {', '.join(f'{value:.3f}' for value in times)}   (target 0.12 s)"
    )
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def stall(options: argparse.Namespace) -> None:
    """Time that training stands still for saving, at the interval that Young and Daly give for a kill every 10 minutes."""
    size, folder = 12 * options.parameters, Path(tempfile.mkdtemp(dir=options.folder))
    state = {kind: {"all": torch.randn(options.parameters)} for kind in ("weights", "exp_avg", "exp_avg_sq")}
    store = Store(folder, lambda *_, **__: None)
    saver = Saver(
        store,
        background=True,
        label="b",
        retained=lambda steps: set(sorted(steps)[-3:]),
        essential=set,
        before=lambda: None,
    )
    saver.measure(state)
    saver.save(0, state, {"step": 0})
    saver.join()
    saver.stall, begun = 0.0, time.monotonic()
    saver.save(1, state, {"step": 1})
    cost = saver.stall
    every = math.sqrt(2 * cost * 600)
    saver.stall, begun, step, following = 0.0, time.monotonic(), 2, time.monotonic()
    work = torch.randn(512, 512)
    while time.monotonic() - begun < options.seconds:
        for _ in range(20):
            work @ work
        if time.monotonic() > following:
            saver.save(step, state, {"step": step})
            step, following = step + 1, time.monotonic() + every
    spent = time.monotonic() - begun
    saver.join()
    print(
        f"stall for checkpoints of {size / 2**20:.0f} MiB, one every {every:.2f} s (Young/Daly, kill every 600 s)   [{hardware()}]"
    )
    print(
        f"  {step - 2} saves in {spent:.0f} s; stood still for {100 * saver.stall / spent:.3f} % of the time   (target 1 %)"
    )
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rates", "resume", "stall", "seek"])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--parameters", type=int, default=1_300_000)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--folder", help="where the disk is that is measured")
    options = parser.parse_args()
    {"rates": rates, "resume": resume, "stall": stall, "seek": seek}[options.what](options)


if __name__ == "__main__":
    main()
