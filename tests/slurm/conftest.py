"""One Slurm for the whole session, started and stopped here; no root or no packages: all of tests/slurm is skipped."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.slurm.lab import NODES, SCRIPT, STOPPED, Lab, probe
from tests.slurm.scene import Scene, checkout, digests, quiet_run

AT_ONCE = 5  # scenarios that two cores carry at the same time


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Scenarios of a module run at the same time, so the first test waits for more than its own."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(2400))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A running cluster of six nodes, the only one of this session."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # or tests are shared out wrongly, which is slow and otherwise silent
        (tmp_path_factory.getbasetemp().parent / "the-only-lab").mkdir()
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

    def interrupted(*_: object) -> None:  # or the daemons would stay
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupted)
    try:
        lab.script("up")
        # Which Slurm the session used, for whoever looks at it from outside.
        (folder.parent / "slurm-version").write_text(lab.say("slurmctld", "-V"))
        yield lab
    finally:
        signal.signal(signal.SIGTERM, before)
        STOPPED.set()
        for driver in lab.drivers:
            driver.kill()
        lab.script("down")


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The study run quietly on this machine, and the digests of its weights; an outer session may have it already."""
    arms = ["baseline", "mlp_both"]
    if given := os.environ.get("ISOTONE_LAB_REFERENCE"):
        return Path(given), digests(Path(given), arms)
    folder = checkout(tmp_path_factory.mktemp("quiet") / "checkout")
    return folder, quiet_run(folder, arms)


@pytest.fixture(scope="session")
def played(
    lab: Lab,
    reference: tuple[Path, dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[dict[str, Future[None]]]:
    """The selected scenarios of all modules with scenes, some at a time, each on a node of its own."""
    free: queue.Queue[str] = queue.Queue()
    for node in NODES:
        free.put(node)
    taking = threading.Lock()
    base = tmp_path_factory.mktemp("scenes")

    def play(scenario: object) -> None:
        with taking:
            nodes = [free.get() for _ in range(getattr(scenario, "nodes", 1))]
        try:
            scenario(Scene(lab, *reference, base / scenario.__name__ / "checkout", *nodes))
        finally:
            for node in nodes:
                free.put(node)

    asking = [item for item in request.session.items if "played" in getattr(item, "fixturenames", ())]
    chosen = {item.callspec.params["scenario"] for item in asking}
    modules = sorted({item.module for item in asking}, key=lambda module: module.FIRST)
    scenarios = [scenario for module in modules for scenario in module.SCENARIOS if scenario.__name__ in chosen]
    pool = ThreadPoolExecutor(AT_ONCE)
    yield {scenario.__name__: pool.submit(play, scenario) for scenario in scenarios}
    pool.shutdown(wait=False, cancel_futures=True)


@pytest.fixture(scope="module")
def probed(
    lab: Lab, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Future[None]]:
    """The selected scenarios of this module with the probe workflow, started at once: most of each is waiting."""
    names = {
        item.callspec.params["scenario"]
        for item in request.session.items
        if item.module is request.module and "probed" in getattr(item, "fixturenames", ())
    }
    pool = ThreadPoolExecutor(AT_ONCE)
    base = tmp_path_factory.mktemp(request.module.__name__.rsplit(".", 1)[-1])
    chosen = [scenario for scenario in request.module.SCENARIOS if scenario.__name__ in names]
    started = {scenario.__name__: pool.submit(scenario, lab, probe(base / scenario.__name__)) for scenario in chosen}
    pool.shutdown(wait=False)
    return started


@pytest.fixture(name="checkout")
def probe_checkout(tmp_path: Path) -> Path:
    """A checkout with the probe workflow."""
    return probe(tmp_path / "probe")
