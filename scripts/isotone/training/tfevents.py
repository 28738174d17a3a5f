"""TensorBoard event files, written directly: importing TensorBoard would cost more than a short run.

A record is its length, a masked CRC-32C of the length, the bytes, a masked CRC-32C of
the bytes. The bytes are an ``Event`` protocol buffer with the few fields used here.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected
_COUNTER = itertools.count()


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C of some bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _event(
    *, step: int | None = None, version: str = "", scalars: Mapping[str, float] | None = None, start: bool = False
) -> bytes:
    parts = [b"\x09" + struct.pack("<d", time.time())]  # 1: wall time
    if step is not None:
        parts.append(b"\x10" + _varint(step))  # 2: step
    if version:
        parts.append(_field(3, version.encode()))
    if scalars:
        values = (
            _field(1, _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value)) for tag, value in scalars.items()
        )
        parts.append(_field(5, b"".join(values)))
    if start:
        parts.append(_field(7, b"\x08\x01"))  # session_log START: readers drop later steps of older files
    return b"".join(parts)


class EventWriter:
    """Scalars for TensorBoard; a new file per start."""

    def __init__(self, folder: Path) -> None:
        """Nothing is opened before `restart`."""
        self.folder = Path(folder)
        self._file: BinaryIO | None = None

    def restart(self, step: int) -> None:
        """Begin a file whose steps follow ``step``; steps of older files behind it are void."""
        self.close()
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{int(time.time())}.isotone.{os.getpid()}.{next(_COUNTER)}"
            self._file = open(self.folder / name, "wb")  # noqa: SIM115
        self._record(_event(version="brain.Event:2"))
        self._record(_event(step=step + 1, start=True))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one step's figures."""
        self._record(_event(step=step, scalars=values))

    def _record(self, data: bytes) -> None:
        if self._file is None:
            return
        length = struct.pack("<Q", len(data))
        with contextlib.suppress(OSError, ValueError):
            self._file.write(length + _masked(length) + data + _masked(data))
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None
