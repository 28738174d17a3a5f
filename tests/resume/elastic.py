"""Several processes of one run, as torchrun would start them."""

from __future__ import annotations

import socket
from typing import Any

from tests.resume.runs import Case


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_together(case: Case, size: int, **options: Any) -> list[Any]:
    """Start ``size`` processes with the environment that torchrun gives."""
    if size == 1:
        return [case.start(**options)]
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        case.start(variables=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, **options) for rank in range(size)
    ]


def run_together(case: Case, size: int, **options: Any) -> list[int]:
    """Start ``size`` processes and wait for their codes."""
    return [start.wait() for start in start_together(case, size, **options)]
