"""Lines of plain and compressed files, in bounded memory, with damage reported instead of raised.

Archives (tar, zip) are never unpacked: their names could point anywhere, and a
text corpus needs none. A compressed stream is expanded in small steps, and a line
has a longest length, so that no input can fill the memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isotone.data.document import Troubles

LONGEST_LINE = 64 << 20
FEED = 1 << 10  # compressed bytes per step: a zstd block of 4 bytes can stand for 128 KiB
READ = 1 << 20


def _decompressor(path: Path) -> Any:
    if path.suffix == ".gz":
        return zlib.decompressobj(wbits=31)  # gzip framing
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()


def _expanded(path: Path, troubles: Troubles) -> Iterator[bytes]:
    """The expanded bytes of a .gz or .zst file; several members may follow each other."""
    stream, fresh = _decompressor(path), True
    with open(path, "rb") as file:
        while data := file.read(FEED):
            while data:
                if stream.eof:
                    stream = _decompressor(path)
                try:
                    out = stream.decompress(data)
                except Exception as error:  # zlib.error, zstandard.ZstdError
                    if type(error).__name__ not in ("error", "ZstdError"):
                        raise
                    troubles.add("damaged_archive", f"{path.name} ({error})")
                    return
                fresh = False
                if out:
                    yield out
                data = stream.unused_data if stream.eof else b""
    if fresh or not stream.eof:
        troubles.add("truncated_archive", path.name)


def chunks(path: Path, troubles: Troubles) -> Iterator[bytes]:
    """The bytes of a file, expanded if its name ends in .gz or .zst."""
    if path.suffix in (".gz", ".zst"):
        yield from _expanded(path, troubles)
        return
    with open(path, "rb") as file:
        while data := file.read(READ):
            yield data


def lines(path: Path, troubles: Troubles) -> Iterator[tuple[int, str]]:
    """Numbered lines (from 1) without their ends; those that are not UTF-8 or far too long are counted and left out."""
    pending: list[bytes] = []
    number, size, skipping = 0, 0, False

    def whole(tail: bytes) -> str | None:
        nonlocal number
        number += 1
        raw = b"".join([*pending, tail]).removesuffix(b"\r")
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            troubles.add("invalid_utf8", f"{path.name}:{number}")
            return None

    for chunk in chunks(path, troubles):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            if skipping:
                number += 1
                skipping = False
            elif (text := whole(end)) is not None:
                yield number, text
            pending, size = [], 0
        if skipping:
            continue
        pending.append(rest)
        size += len(rest)
        if size > LONGEST_LINE:
            troubles.add("line_too_long", f"{path.name}:{number + 1}")
            pending, size, skipping = [], 0, True
    if size and (text := whole(b"")) is not None:
        yield number, text


def content(path: Path, troubles: Troubles) -> str | None:
    """A whole file as text; None if it is not UTF-8 or longer than the longest line."""
    parts, size = [], 0
    for chunk in chunks(path, troubles):
        parts.append(chunk)
        size += len(chunk)
        if size > LONGEST_LINE:
            troubles.add("file_too_long", f"{path.name} (set data.plain_text to paragraph or line)")
            return None
    try:
        return b"".join(parts).decode("utf-8-sig")
    except UnicodeDecodeError:
        troubles.add("invalid_utf8", path.name)
        return None
