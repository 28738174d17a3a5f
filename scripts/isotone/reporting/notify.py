"""The user's own command when a study ends; a failing command never fails the study."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SECONDS = 60.0


def notify(command: str, status: str, study: str, folder: Path) -> int | None:
    """Run ``command`` in a shell with what happened in its environment.

    The command sees ISOTONE_STATUS (``success`` or ``failure``), ISOTONE_STUDY,
    ISOTONE_FOLDER and ISOTONE_REPORT (empty on failure). It may take a minute.

    Args:
        command: ``operation.notify``; empty: nothing happens.

    Returns:
        its exit code, or None where there was no command or it did not end.
    """
    if not command:
        return None
    report = Path(folder) / "report.html"
    facts = {
        "ISOTONE_STATUS": status,
        "ISOTONE_STUDY": study,
        "ISOTONE_FOLDER": str(folder),
        "ISOTONE_REPORT": str(report) if status == "success" and report.is_file() else "",
    }
    try:
        code = subprocess.run(command, shell=True, env=os.environ | facts, timeout=SECONDS, check=False).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"operation.notify did not end well ({error}); the study is not touched by that.", file=sys.stderr)
        return None
    if code:
        print(f"operation.notify ended with code {code}; the study is not touched by that.", file=sys.stderr)
    return code
