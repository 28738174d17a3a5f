"""One Slurm for the whole session, started and stopped here; no root or no packages: all of tests/slurm is skipped."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.lab import SCRIPT, Lab, probe


def free_ports(count: int) -> int:
    """The first of ``count`` free ports in a row."""
    for first in range(27300, 29000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as attempt:
                    attempt.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
    raise RuntimeError("no free ports for the lab")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A running cluster of four nodes."""
    missing = subprocess.run(["bash", str(SCRIPT), "missing"], capture_output=True, text=True).stdout.split()
    if missing:
        pytest.skip(f"no Slurm can be started here: missing {', '.join(missing)} (see docs/cluster.md)")
    folder = tmp_path_factory.mktemp("lab")
    for parent in (folder, *folder.parents):  # munge and the database run as other users
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
        if parent == Path("/tmp"):
            break
    lab = Lab(folder, free_ports(32))
    try:
        lab.script("up")
        yield lab
    finally:
        lab.script("down")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the probe workflow."""
    return probe(tmp_path / "probe")
