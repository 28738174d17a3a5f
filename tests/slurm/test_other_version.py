"""The scenes in which Slurm's versions differ, on the version that this machine has not (tests/slurm/other.sh)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.lab import HERE, ROOT

SCRIPT = HERE / "other.sh"
CHOSEN = [
    "test_queue.py::test_scenario[a_prolog_fails]",  # Slurm holds the job
    "test_queue.py::test_scenario[a_node_reboots]",
    "test_preemption.py::test_scenario[preempted_in_mid_epoch]",  # two records in accounting, one start more
    "test_preemption.py::test_scenario[time_limit]",
]
SECONDS = 1200
OF_THIS_RUN = re.compile(r"COV|PYTEST|ISOTONE_LAB$|ISOTONE_LAB_PORT|ISOTONE_LAB_NODES")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose name leaves room: Slurm's sockets lie below it, and a socket's path has 108 characters at most."""
    with tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.timeout(SECONDS)
def test_chosen_scenes_pass_on_the_other_slurm(request: pytest.FixtureRequest, short: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not OF_THIS_RUN.match(name)}
    environment["ISOTONE_LAB_PYTHON"] = sys.executable
    ask = ["bash", str(SCRIPT), "missing"]
    if why := subprocess.run(ask, env=environment, capture_output=True, text=True, check=True).stdout.strip():
        pytest.skip(f"the second version of Slurm was not run: {why}")
    environment["ISOTONE_LAB_REFERENCE"] = str(request.getfixturevalue("reference")[0])
    command = ["bash", str(SCRIPT), "run", sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    command += [f"--basetemp={short / 'other'}", *(f"tests/slurm/{name}" for name in CHOSEN)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as inner:
        try:
            said = inner.communicate()[0]
        finally:  # a time limit of this test ends the inner session in good order, and with it its daemons
            inner.terminate()
    assert inner.returncode == 0, said[-6000:]
    assert not re.search(r"skipped|deselected", said), said[-2000:]
    version = re.search(r"slurm\S* \d\S*", (short / "other/slurm-version").read_text())
    print(f"{len(CHOSEN)} scenes passed on {version[0] if version else 'an unknown Slurm'}")
    assert version is not None
