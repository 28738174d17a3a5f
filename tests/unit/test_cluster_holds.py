"""Waits that do not end by themselves, in the words of Slurm 22.05 and 24.11 (both print these lines alike)."""

from __future__ import annotations

import pytest
from isotone.cluster.holds import hold_of

# squeue --format '%i|%T|%r', as recorded.
RECORDED = """\
1|PENDING|launch failed requeued held
2|PENDING|JobHeldUser
3|PENDING|JobHeldAdmin
4|PENDING|job requeued in held state
5|PENDING|BeginTime
6|PENDING|Dependency
7|SPECIAL_EXIT|job requeued in held state
8|PENDING|ReqNodeNotAvail, UnavailableNodes:n1
9|PENDING|QOSMaxWallDurationPerJobLimit
11|PENDING|QOSMaxJobsPerUserLimit
12|RUNNING|None
13|PENDING|Resources
14|PENDING|ReqNodeNotAvail, May be reserved for other job
15|PENDING|BadConstraints
16|PENDING|PartitionTimeLimit
17|PENDING|AssocMaxJobsLimit
18|PENDING|AssocMaxCpuPerJobLimit
19|PENDING|PartitionInactive"""

RELEASED = {"1", "7", "15"}
TOLD = {"2", "3", "4", "9", "16", "18", "19"}


@pytest.mark.parametrize("line", RECORDED.splitlines())
def test_what_never_starts_is_released_or_told(line: str) -> None:
    number, state, reason = line.split("|")
    hold = hold_of(number, state, reason)
    assert (hold is not None) == (number in RELEASED | TOLD)
    if hold is not None:
        assert hold.release == (number in RELEASED)
        assert f"Slurm job {number} waits" in str(hold) and number in hold.advice


def test_only_an_administrator_ends_an_administrators_hold() -> None:
    told = hold_of("3", "PENDING", "JobHeldAdmin")
    assert told is not None and "only an administrator may release it" in told.advice and "scancel 3" in told.advice
