"""Whether other programs use the GPUs of this machine."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from typing import Any

from isotone.gpus import Gpus
from isotone.planning.checks import Verdict

READINGS, PAUSE = 3, 0.3  # of each GPU, and seconds between them: one kernel is no use
HELD, USED = 0.05, 10  # share of the memory, percent of utilisation; a driver alone holds less


def _chosen(library: Any) -> Gpus:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, by the machine's numbers or by UUID; all of them without it."""
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if names and all(name.startswith("GPU-") for name in names):
        return Gpus(names, library)
    found = Gpus(library=library)
    if names and all(name.isdigit() for name in names):
        found.handles = {index: handle for index, handle in found.handles.items() if str(index) in names}
        found.trouble = found.trouble or f"CUDA_VISIBLE_DEVICES={','.join(names)} names none of them"
    return found


def gpus(library: Any = None) -> Verdict:
    """Memory and time that others take of each GPU; the doctor itself takes none.

    Args:
        library: pynvml, or something with its functions.
    """
    found = _chosen(library)
    if not found.handles:
        colour = "yellow" if shutil.which("nvidia-smi") else "green"  # a driver's program, but nothing that it drives
        return colour, f"no NVIDIA GPU that could be asked ({found.trouble})"
    rows, troubles = [], set()
    for reading in range(READINGS):
        time.sleep(PAUSE if reading else 0)
        seen, trouble = found.read()
        rows += seen
        troubles |= {trouble} - {""}
    busy = []
    for index in found.handles:
        own = [row for row in rows if row["gpu"] == index]
        use = statistics.median(row["utilisation"] for row in own) if own else 0
        held, total = (own[-1]["memory"], own[-1]["total"]) if own else (0, 1)
        if use >= USED or held > HELD * total:
            pids = ", ".join(map(str, found.processes(index)))
            who = f" (processes {pids})" if pids else ""
            busy.append(f"GPU {index}: {held / 2**30:.1f} of {total / 2**30:.1f} GiB held, {use:.0f} % busy{who}")
    if busy:
        return (
            "yellow",
            f"other programs use {len(busy)} of {len(found.handles)}: {'; '.join(busy)}. Training there gets less memory and goes "
            "slower: wait, or choose others with CUDA_VISIBLE_DEVICES.",
        )
    if troubles:
        return "yellow", f"not every GPU could be read: {'; '.join(sorted(troubles))}. See what nvidia-smi says."
    return "green", f"none of {len(found.handles)} in use"
