"""safetensors files, written and read while they are hashed.

The format is simple enough to write directly: eight bytes with the header's size,
a JSON header, the bytes of all tensors. Doing so hashes the bytes on their way, and
needs no second copy of a model in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from isotone.errors import InputOutputError
from isotone.records import Json, file_digest

CHUNK = 8 << 20
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    entries, offset = {}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text


def _room(size: int) -> Tensor:
    """Uninitialised bytes, in large pages where the system has them: small ones cost as much as reading the disk."""
    if size < CHUNK:
        return torch.empty(size, dtype=torch.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Json:
    """Write CPU tensors and wait until the disk has them.

    Returns:
        ``{"size": bytes, "sha256": hex}`` for the manifest.
    """
    digest, size = hashlib.sha256(), 0
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))  # keeps every one aligned
    with open(path, "wb", buffering=1 << 20) as file:
        for piece in (memoryview(_header(tensors)), *(_bytes_of(tensor) for tensor in tensors.values())):
            for start in range(0, len(piece), CHUNK):
                chunk = piece[start : start + CHUNK]
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def read_tensors(path: Path, expected: Json) -> dict[str, Tensor]:
    """Read a file that `write_tensors` made, and insist on its size and digest.

    Raises:
        InputOutputError: if it is not what the manifest says.
    """
    size = os.stat(path).st_size
    if size != expected["size"]:
        raise InputOutputError(f"{path} has {size} bytes instead of {expected['size']}")
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        start = file.read(8)
        text = file.read(min(int.from_bytes(start, "little"), size))  # a damaged size must not ask for all memory
        digest.update(start + text)
        data = _room(max(0, size - len(start) - len(text)))
        view, position = data.numpy().data, 0
        while position < len(view):
            count = file.readinto(view[position : position + CHUNK])
            if not count:
                break
            digest.update(view[position : position + count])
            position += count
    if digest.hexdigest() != expected["sha256"]:
        raise InputOutputError(f"{path} does not have the SHA-256 that its manifest says")
    found = {}
    for name, entry in json.loads(text).items():
        low, high = entry["data_offsets"]
        found[name] = data[low:high].view(_TYPES[entry["dtype"]]).view(entry["shape"])
    return found


def check_file(path: Path, expected: Json) -> None:
    """Insist on a file's size and digest without keeping what is in it.

    Raises:
        InputOutputError: if it is not what the manifest says.
    """
    if os.stat(path).st_size != expected["size"] or file_digest(path) != expected["sha256"]:
        raise InputOutputError(f"{path} does not have the size and SHA-256 that its manifest says")
