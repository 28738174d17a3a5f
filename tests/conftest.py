"""What all tests share: the repository, and floors for branch coverage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Branch coverage in percent that `make test` insists on; the first entry is the whole library.
FLOORS = {"": 80, "training": 90, "constraints": 90, "attacks": 90, "statistics": 90}

ORDER = ["slurm", "workflow", "resume", "browser", "hostile", "gpu", "emulated", "unit"]

# As Snakemake gives it to every rule with one thread; the bits of a CPU result depend on it.
os.environ["OMP_NUM_THREADS"] = "1"

# An installed but stopped Slurm makes every import of Snakemake wait; the Slurm tests set their own.
os.environ.setdefault("SLURM_CONF", "/dev/null")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's top folder."""
    return ROOT


def _covered(package: str) -> float:
    import io

    import coverage

    data = coverage.Coverage(data_file=str(ROOT / ".coverage"), config_file=str(ROOT / "pyproject.toml"))
    data.load()
    pattern = f"*/isotone/{package}/*" if package else "*/isotone/*"
    return data.report(include=[pattern], file=io.StringIO())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run when a floor is missed; only when coverage was measured on the whole suite."""
    if not session.config.getoption("cov_source", None) or not session.config.getoption("floors", False):
        return
    found = {package: _covered(package) for package in FLOORS}
    session.config.stash[_FOUND] = found
    if any(found[package] < floor for package, floor in FLOORS.items()) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_FOUND = pytest.StashKey[dict[str, float]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits most (the cluster) comes first, so that the other worker computes beside it."""
    items.sort(key=lambda item: ORDER.index(item.nodeid.split("/")[1]))


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Tests that share a cluster, a finished study or a browser share a worker; of the others, those of a file.

    Not by xdist's own groups: with pytest 9.2 its marks do nothing, and nothing says so.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Shared(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return file if file.startswith(("tests/unit/", "tests/resume/")) else file.rsplit("/", 1)[0]

    return Shared(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--floors", action="store_true", help="fail when branch coverage misses its floors (make test)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(_FOUND, {})
    skipped = [report.nodeid for report in terminalreporter.stats.get("skipped", []) if "tests/gpu/" in report.nodeid]
    if skipped:
        terminalreporter.write_line(
            f"tests marked gpu: {len(skipped)} not run, for there is no GPU that torch can use here"
        )
    for package, percent in found.items():
        verdict = "ok" if percent >= FLOORS[package] else "MISSED"
        terminalreporter.write_line(
            f"branch coverage {package or 'isotone'}: {percent:.1f} % (floor {FLOORS[package]} %) {verdict}"
        )
