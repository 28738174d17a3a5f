"""Checkpoints of a sharded run: one file per process and kind, with the rows of each tensor in the manifest.

``weights-00002-of-00004.safetensors`` holds rows of many tensors; its entry in
``manifest.json`` says which ones: ``"rows": {name: [start, stop, size]}``. A file
without ``rows`` holds whole tensors, as every file of an unsharded run does. So any
number of processes, sharded or not, reads what any other number has written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from isotone.errors import InputOutputError
from isotone.records import Json
from isotone.training.sharding.slices import Rows

_NAME = re.compile(r"([a-z_]+)(?:-\d{5}-of-\d{5})?\.safetensors$")


def part_name(kind: str, rank: int, ranks: int) -> str:
    """The file of one process."""
    return f"{kind}-{rank + 1:05d}-of-{ranks:05d}.safetensors"


def kind_of(name: str) -> str | None:
    """``weights``, ``exp_avg`` or ``exp_avg_sq``; None for a file that holds no tensors."""
    match = _NAME.match(name)
    return match[1] if match else None


def joined(files: Mapping[str, Json], found: Mapping[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Whole tensors by kind and name, out of files that were read.

    Args:
        files: entries of the manifest.
        found: what is in each file.

    Raises:
        InputOutputError: if rows are missing.
    """
    whole: dict[str, dict[str, Tensor]] = {}
    seen: dict[tuple[str, str], int] = {}
    for file, tensors in found.items():
        kind = kind_of(file) or file
        group = whole.setdefault(kind, {})
        ranges = files[file].get("rows")
        if ranges is None:
            group.update(tensors)
            continue
        for name, part in tensors.items():
            start, stop, size = ranges[name]
            if stop - start == size:
                group[name] = part
                continue
            group.setdefault(name, part.new_empty(size, *part.shape[1:]))[start:stop] = part
            seen[kind, name] = seen.get((kind, name), 0) + stop - start
    for (kind, name), count in seen.items():
        if count != len(whole[kind][name]):
            raise InputOutputError(f"{count} of {len(whole[kind][name])} rows of {name} ({kind}) are there")
    return whole


@torch.no_grad()
def read_rows(
    folder: Path, files: Mapping[str, Json], wanted: Mapping[str, Rows], into: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Copy the rows that this process holds out of a verified checkpoint; nothing else is read.

    Args:
        files: entries of its manifest.
        wanted: rows of each tensor.
        into: this process's tensors by kind and name, overwritten.

    Raises:
        InputOutputError: if some are not there.
    """
    from safetensors import safe_open

    missing = {
        (kind, name): rows.count for kind, group in into.items() for name, rows in wanted.items() if name in group
    }
    for file, entry in files.items():
        kind = kind_of(file)
        if kind is None or kind not in into:
            continue
        with safe_open(folder / file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 (a file, not a mapping)
                part = stored.get_slice(name)
                shape = part.get_shape()
                size = shape[0] if shape else 1
                start, stop, _ = entry.get("rows", {}).get(name, (0, size, size))
                low, high = max(start, wanted[name].start), min(stop, wanted[name].stop)
                if low >= high:
                    continue
                target = into[kind][name]
                if not shape:
                    target.copy_(stored.get_tensor(name))
                else:
                    own = slice(low - wanted[name].start, high - wanted[name].start)
                    target[own].copy_(part[low - start : high - start])
                missing[kind, name] -= high - low
    if lost := [name for (_, name), count in missing.items() if count]:
        raise InputOutputError(f"{folder} lacks rows of {lost[0]}" + (f" and {len(lost) - 1} more" if lost[1:] else ""))
