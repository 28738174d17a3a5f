"""Waiting jobs that will not start by themselves: why, who may change that, and with which command."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Hold:
    """One such job.

    Attributes:
        reason: Slurm's word for it, spelled as in ``scontrol show job``.
        release: whether Isotone may release it: no person put it there.
        advice: one sentence for a reader, with the command.
    """

    number: str
    reason: str
    release: bool
    advice: str

    def __str__(self) -> str:
        return f"Slurm job {self.number} waits ({self.reason}) and will not start by itself: {self.advice}"


_PROFILE = "correct the profile and start the same command again, or cancel it here: scancel {number}"

# Reasons as Slurm 22.05 to 24.11 print them, with underscores for spaces. The first that matches counts.
_REASONS = [
    (
        r"launch_failed_requeued_held",
        True,
        "a node could not start it (`sinfo -R` says what is wrong there). Release it: scontrol release {number}",
    ),
    (r"BadConstraints", True, "no node has what it asks for at present. Release it: scontrol release {number}"),
    (r"job_requeued_in_held_state", False, "somebody requeued and held it. Release it: scontrol release {number}"),
    (r"JobHeldUser", False, "its owner holds it. Release it: scontrol release {number}"),
    (
        r"JobHeldAdmin",
        False,
        "an administrator holds it, and only an administrator may release it (scontrol release {number}). Ask yours, "
        "or cancel it: scancel {number}",
    ),
    (
        r"PartitionTimeLimit|.*MaxWallDurationPerJobLimit",
        False,
        "its time limit is longer than partition, account or QOS allow. Shorten it: scontrol update JobId={number} "
        "TimeLimit=MINUTES; and lower runtime in the profile",
    ),
    (r"PartitionNodeLimit|.*Max.*Per(Job|Node)(Limit)?", False, f"it asks for more than one job may have; {_PROFILE}"),
    (
        r"InvalidAccount|InvalidQOS|AccountNotAllowed|QOSNotAllowed|Reservation(Deleted|Invalid)",
        False,
        f"account, QOS or reservation do not fit (any more); {_PROFILE}",
    ),
    (
        r"PartitionDown|PartitionInactive",
        False,
        "its partition is closed. It starts when an administrator opens it; elsewhere: scontrol update JobId={number} "
        "Partition=NAME",
    ),
]


def spelled(reason: str) -> str:
    """A reason as one word: squeue prints spaces where scontrol prints underscores."""
    return reason.strip().strip("()").split(",")[0].replace(" ", "_")


def hold_of(number: str, state: str, reason: str) -> Hold | None:
    """What keeps a job from ever starting; None if it only has to wait, or does not wait at all.

    Args:
        state, reason: ``%T`` and ``%r`` of squeue.
    """
    word = spelled(reason)
    if state == "SPECIAL_EXIT":  # the site requeues and holds jobs that end with certain codes
        advice = (
            f"the site holds jobs that end as this one did (RequeueExitHold). Release it: scontrol release {number}"
        )
        return Hold(number, "SpecialExit", True, advice)
    if state != "PENDING":
        return None
    for pattern, release, advice in _REASONS:
        if re.fullmatch(pattern, word):
            return Hold(number, word, release, advice.format(number=number))
    return None
