"""Sharded runs from start to end: the same bits on any number of processes, whatever happens to them."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.resume.elastic import run_together, start_together
from tests.resume.forks import Fault, wait_for
from tests.resume.runs import Case, weights
from tests.resume.tiny import CONSTRAINED, Study

WIDE = {"hidden_size": 64, "intermediate_size": 128}  # parts must be multiples of 64 values
FULL = {"sharding": "full", "save_every_steps": 2}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study.make(tmp_path_factory.mktemp("wide"), model={"constraint": CONSTRAINED, **WIDE})


@pytest.fixture(scope="module")
def whole(wide: Study, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The run that was not sharded."""
    case = Case(wide, tmp_path_factory.mktemp("whole"))
    assert case.start().wait() == 0, case.text()
    return case


@pytest.fixture
def cut(wide: Study, tmp_path: Path) -> Case:
    return Case(wide, tmp_path, operation=FULL)


def test_any_number_of_processes_reads_what_any_other_wrote(cut: Case, whole: Case) -> None:
    """Four processes, then one that holds all, then two, each for an epoch."""
    for size, code in ((4, 75), (1, 75), (2, 0)):
        codes = run_together(cut, size, max_epochs_per_run=1)
        assert codes == [code] * size, cut.text()[-3000:]
    for name in ("model.safetensors", "config.json"):
        assert (cut.place / "model" / name).read_bytes() == (whole.place / "model" / name).read_bytes()
    same = ["best", "start_loss", "final_loss", "certificate", "moved_share", "bitwise"]
    assert {key: cut.result()[key] for key in same} == {key: whole.result()[key] for key in same}


def test_killed_in_one_process_and_resumed_by_another_number(cut: Case, whole: Case) -> None:
    starts = start_together(cut, 2)
    wait_for(lambda: cut.steps())
    starts[1].signal(signal.SIGKILL)
    assert [start.wait(60) for start in starts] in ([75, -signal.SIGKILL], [0, 0], [0, -signal.SIGKILL])
    torment(cut, kills=2, seed=1)
    assert weights(cut.place) == weights(whole.place)


def torment(case: Case, *, kills: int, seed: int) -> int:
    """SIGKILL one process of a start again and again, each start with another number of processes; then let it end.

    Returns:
        how many starts were killed (some end before).
    """
    chance, killed, longest = random.Random(seed), 0, 3.0
    while killed < kills and not (case.place / "train.json").exists():
        starts = start_together(case, chance.choice([1, 2, 4]))
        victim = chance.choice(starts)
        victim.process.join(chance.uniform(0.3 * longest, longest))
        victim.signal(signal.SIGKILL)
        victim.wait()
        for start in starts:
            start.process.join(20)
            start.signal(signal.SIGKILL)  # who waits for the victim to begin is ended by torchrun
        codes = [start.wait() for start in starts]
        killed += -signal.SIGKILL in codes
        assert set(codes) <= {-signal.SIGKILL, 75, 0}, (codes, case.text()[-3000:])
        if not case.steps():
            longest *= 1.2
    last = run_together(case, chance.choice([1, 2]))
    assert set(last) == {0}, (last, case.text()[-3000:])
    return killed


def test_a_full_disk_of_one_process_is_every_processes(cut: Case, whole: Case) -> None:
    starts = _start(cut, [None, Fault("full_once", 3, where=("00002-of-00002",))])
    assert [start.wait() for start in starts] == [0, 0], cut.text()[-3000:]
    assert any("disk full" in event["what"] for event in cut.events("alarm"))
    assert weights(cut.place) == weights(whole.place)


def test_memory_that_runs_out_in_one_process_ends_all_and_the_next_start_takes_less(tmp_path: Path) -> None:
    """Activations of 64 MiB and more, as in test_faults, with the limit on the second process alone."""
    study = Study.make(
        tmp_path / "study", model={"constraint": CONSTRAINED, "hidden_size": 64, "intermediate_size": 2048}
    )
    wide = {"training": {"global_batch": 1024, "micro_batch_size": 512, "epochs": 64, "validation_blocks": 2}}
    case, ends = Case(study, tmp_path / "limited", wide, FULL), []
    while not ends or ends[-1] != [0, 0]:
        starts = _start(case, [None, None], limits=[{}, {"extra_memory": 350 << 20}])
        ends.append([start.wait() for start in starts])
        assert ends[-1] in ([75, 75], [0, 0]) and len(ends) < 6, (
            ends,
            (tmp_path / "limited/log-1.txt").read_text()[-3000:],
        )
    assert len(ends) > 1, "the memory sufficed"
    assert case.result()["micro_batch_size"] == 512 >> len(ends) - 1
    assert case.result()["bitwise"] is False


def _start(
    case: Case, faults: list[Fault | None], *, limits: list[dict[str, int]] | None = None, **options: Any
) -> list[Any]:
    from tests.resume.elastic import free_port

    common = {"WORLD_SIZE": str(len(faults)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        case.start(
            variables=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            fault=fault,
            limits=limits[rank] if limits else None,
            log=f"log-{rank}.txt",
            **options,
        )
        for rank, fault in enumerate(faults)
    ]


def test_a_signal_to_one_process_and_a_halt_stop_all_with_a_checkpoint(cut: Case, whole: Case) -> None:
    starts = start_together(cut, 2)
    wait_for(lambda: cut.steps())
    starts[1].signal(signal.SIGTERM)
    codes = {start.wait() for start in starts}
    assert codes in ({75}, {0}), cut.text()[-3000:]
    (cut.place / "HALT").touch()
    assert set(run_together(cut, 2)) == {75}
    (cut.place / "HALT").unlink()
    assert set(run_together(cut, 2)) == {0}, cut.text()[-3000:]
    assert weights(cut.place) == weights(whole.place)


def test_a_process_that_stands_still_is_noticed_by_the_others(cut: Case) -> None:
    starts = start_together(cut, 2, operation={"watchdog": 2.0, "watchdog_floor": 0.5})
    wait_for(lambda: cut.steps())
    starts[1].signal(signal.SIGSTOP)
    assert starts[0].wait(60) == 75, cut.text()[-3000:]
    starts[1].signal(signal.SIGKILL)
    starts[1].wait()
    assert cut.outcome()["code"] == 75


def test_what_is_not_sharded_says_so(cut: Case) -> None:
    codes = run_together(cut, 2, settings={"training": {"micro_batch": "auto"}})
    assert codes == [78, 78]
    assert "operation.sharding: none" in cut.text()
    assert not (cut.state / "refused.json").exists()
