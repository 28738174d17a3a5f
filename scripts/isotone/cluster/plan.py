"""What Snakemake's planning gets wrong: one fault, mended here.

When a job must run, Snakemake (9.27) does not ask whether the jobs behind it have reasons of their own, because they
will run anyhow. Behind an input marked ``ancient`` they will not: with a change of the attacked documents and of a
learning rate at once, nothing was trained again. The mend leaves such edges out of that short cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def reached(direction: Mapping[Any, Mapping[Any, Any]], *jobs: Any) -> Iterator[Any]:
    """The jobs, and those behind them that run because they do: breadth first, over edges that are not all ancient."""
    queue, seen = list(jobs), set(jobs)
    for job in queue:
        yield job
        for behind, files in direction[job].items():
            if behind not in seen and not all(file.is_ancient for file in files):
                seen.add(behind)
                queue.append(behind)


def mend_plan() -> None:
    """Let this process's Snakemake ask every job behind an ancient input; once."""
    from snakemake.dag import DAG

    planned = DAG.update_needrun
    if hasattr(planned, "_isotone"):
        return

    async def update_needrun(self: Any, *arguments: Any, **options: Any) -> Any:
        self.bfs = reached  # what this one function asks for the short cut
        try:
            return await planned(self, *arguments, **options)
        finally:
            del self.bfs

    update_needrun._isotone = True  # type: ignore[attr-defined]
    DAG.update_needrun = update_needrun
