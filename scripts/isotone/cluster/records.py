"""What Slurm's commands print, read."""

from __future__ import annotations

import re


def fields(line: str) -> dict[str, str]:
    """The ``Name=value`` words of one record of ``scontrol -o show``."""
    return dict(re.findall(r"(\w+)=(\S*)", line))
