"""Two processes on one card train to the bits of one; and whether NCCL comes up.

NCCL refuses two ranks on one GPU, so gradients travel through main memory (gloo). That shows that micro-batches dealt
out to two processes on a real device sum to the same bits; it shows nothing about NCCL or its speed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.determinism import Study, result
from benchmarks.gpu.record import Plan, Record

SHARED = """
import os, runpy, sys
import torch
import torch.distributed as dist
import isotone.training.run as run
from isotone.training.world import World

class Shared(World):
    # Exchanges go through main memory.
    def sum_exact(self, values, partner_values):
        here = values.cpu()
        World(torch.device("cpu"), self.rank, self.size).sum_exact(here, torch.empty_like(here))
        values.copy_(here)

def join():
    dist.init_process_group("gloo")
    device = torch.device("cuda", 0) if torch.cuda.is_available() and sys.argv[1] != "cpu" else torch.device("cpu")
    return Shared(device, dist.get_rank(), dist.get_world_size())

run.join = join
program = sys.argv[2]
sys.argv = sys.argv[2:]
runpy.run_path(program, run_name="__main__")
"""
ALONE = """
import torch, torch.distributed as dist
torch.cuda.set_device(0)
dist.init_process_group("nccl", device_id=torch.device("cuda", 0))
x = torch.ones(1 << 20, device="cuda")
dist.all_reduce(x)
torch.cuda.synchronize()
print("NCCL", ".".join(map(str, torch.cuda.nccl.version())), "comes up for one process; sum", x[0].item())
dist.destroy_process_group()
"""


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def settings_of(size: int, rank: int, port: int) -> dict[str, str]:
    """The variables that torchrun would set."""
    return os.environ | {
        "WORLD_SIZE": str(size),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def begin(study: Study, place: Path, plan: Plan, size: int) -> list[subprocess.Popen[bytes]]:
    """Start ``size`` processes of one run."""
    place.mkdir(parents=True, exist_ok=True)
    command, port, started = study.command(place), free_port(), []
    for rank in range(size):
        log = open(place / "log.txt", "ab")  # noqa: SIM115 - the child keeps it
        words = [sys.executable, "-c", SHARED, plan.device, *command[1:]]
        started.append(subprocess.Popen(words, stdout=log, stderr=log, env=settings_of(size, rank, port)))
    return started


def run(record: Record, plan: Plan) -> None:
    """One and two processes beside each other."""
    study = Study(plan)
    stamp = int(time.time())
    alone, pair = plan.folder / f"alone-{stamp}", plan.folder / f"pair-{stamp}"
    children = [study.begin(alone), *begin(study, pair, plan, 2)]
    if plan.device == "cuda":
        said = subprocess.run(
            [sys.executable, "-c", ALONE],
            env=settings_of(1, 0, free_port()),
            capture_output=True,
            text=True,
            timeout=60,
        )
        text = said.stdout.strip() or said.stderr.strip()[-300:]
        record.row("NCCL", text, "comes up", said.returncode == 0)
    for child in children:
        child.wait()
    one, two = (result(place)["weights_sha256"][:12] for place in (alone, pair))
    record.row(
        "two processes on one card, gloo", one if one == two else f"{one} and {two}", "same bits as one", one == two
    )
