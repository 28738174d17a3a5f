"""Several processes that train one small model, sharded and not, and compare what they hold."""

from __future__ import annotations

import json
import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.resume.preload"])


def _member(function: Callable[..., Any], rank: int, size: int, place: Path, arguments: tuple[Any, ...]) -> None:
    import torch
    import torch.distributed as dist
    from isotone import environment
    from isotone.training.world import World

    environment.deterministic(0)
    dist.init_process_group("gloo", init_method=f"file://{place / 'meeting'}", rank=rank, world_size=size)
    try:
        answer = {"value": function(World(torch.device("cpu"), rank, size), *arguments)}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    (place / f"answer-{rank}.json").write_text(json.dumps(answer))
    dist.destroy_process_group()


def together(function: Callable[..., Any], size: int, place: Path, *arguments: Any) -> list[Any]:
    """Call ``function(world, *arguments)`` in ``size`` processes of one gloo world; their answers (plain data).

    Raises:
        AssertionError: with the traceback of the first that failed.
    """
    place.mkdir(parents=True, exist_ok=True)
    members = [_CONTEXT.Process(target=_member, args=(function, rank, size, place, arguments)) for rank in range(size)]
    for member in members:
        member.start()
    for member in members:
        member.join(120)
        if member.exitcode is None:
            member.kill()
    answers = [json.loads(path.read_text()) for path in sorted(place.glob("answer-*.json"))]
    errors = [answer["error"] for answer in answers if "error" in answer]
    assert not errors, errors[0]
    assert len(answers) == size, f"{size - len(answers)} of {size} processes left no answer"
    return [answer["value"] for answer in answers]
