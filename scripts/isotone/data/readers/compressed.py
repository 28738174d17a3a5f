"""Lines of plain and compressed files, in bounded memory, with damage reported instead of raised.

What a file is follows from its first bytes where they say so (gzip, Zstandard, a byte
order mark of UTF-16 or UTF-32), else from its name. Archives (tar, zip) are never unpacked: their names could point anywhere, and a
text corpus needs none. A compressed stream is expanded in small steps, and a line
has a longest length, so that no input can fill the memory.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from isotone.data.document import Troubles

LONGEST_LINE = 64 << 20
FEED = 1 << 10  # compressed bytes per step: a zstd block of 4 bytes can stand for 128 KiB
READ = 1 << 20
LARGEST_WINDOW = 1 << 27  # bytes that a zstd frame may make us hold


GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
UTF8_MARK = b"\xef\xbb\xbf"
MARKS = {  # the longer one first: UTF-32's mark begins as UTF-16's does
    b"\xff\xfe\0\0": "utf-32-le",
    b"\0\0\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
# What cannot be decoded becomes half a character, which no UTF-8 line may hold: the line is counted, its neighbours stay.
codecs.register_error("isotone.half", lambda error: ("\udcff", getattr(error, "end", 0)))


def _packing(path: Path) -> str:
    """``gz``, ``zst`` or nothing, by the first bytes or else by the name."""
    with open(path, "rb") as file:
        first = file.read(4)
    if first.startswith(GZIP):
        return "gz"
    if first == ZSTD:
        return "zst"
    suffix = path.suffix.lower()[1:]
    return suffix if suffix in ("gz", "zst") else ""


def _decompressor(packing: str) -> Any:
    if packing == "gz":
        return zlib.decompressobj(wbits=31)  # gzip framing
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW).decompressobj()


def _reason(error: Exception) -> str:
    if "too much memory" in str(error):
        return f"{error}: written with a window above 128 MiB; decompress it yourself: zstd -d --long=31 FILE"
    return str(error)


def _expanded(path: Path, packing: str, name: str, troubles: Troubles) -> Iterator[bytes]:
    """The expanded bytes of a .gz or .zst file; several members may follow each other."""
    stream, fresh = _decompressor(packing), True
    with open(path, "rb") as file:
        while data := file.read(FEED):
            while data:
                if stream.eof:
                    data = data.lstrip(b"\0") if packing == "gz" else data  # padding of tapes and block devices
                    if not data:
                        break
                    stream = _decompressor(packing)
                try:
                    out = stream.decompress(data)
                except Exception as error:  # zlib.error, zstandard.ZstdError
                    if type(error).__name__ not in ("error", "ZstdError"):
                        raise
                    troubles.add("damaged_archive", f"{name} ({_reason(error)})")
                    return
                fresh = False
                if out:
                    yield out
                data = stream.unused_data if stream.eof else b""
    if fresh or not stream.eof:
        troubles.add("truncated_archive", name)


def _bytes(path: Path, name: str, troubles: Troubles) -> Iterator[bytes]:
    if packing := _packing(path):
        yield from _expanded(path, packing, name, troubles)
        return
    with open(path, "rb") as file:
        while data := file.read(READ):
            yield data


def _as_utf8(parts: Iterable[bytes]) -> Iterator[bytes]:
    """UTF-16 and UTF-32 as UTF-8, where a mark in front says that it is one of them; anything else unchanged."""
    parts = iter(parts)
    head = b""
    for part in parts:
        head += part
        if len(head) >= 4:
            break
    encoding = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    if encoding is None:
        yield head
        yield from parts
        return
    decoder = codecs.getincrementaldecoder(encoding)("isotone.half")
    yield decoder.decode(head).encode("utf-8", "surrogatepass")
    for part in parts:
        yield decoder.decode(part).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")


def chunks(path: Path, name: str, troubles: Troubles) -> Iterator[bytes]:
    """The bytes of a file, expanded if it is compressed, as UTF-8 if a mark says what else it is."""
    return _as_utf8(_bytes(path, name, troubles))


def lines(path: Path, name: str, troubles: Troubles) -> Iterator[tuple[int, str]]:
    """Numbered lines (from 1) without their ends; those that are not UTF-8 or far too long are counted and left out.

    Args:
        name: what the file is called in counts of bad input.
    """
    pending: list[bytes] = []
    number, size, skipping = 0, 0, False

    def whole(tail: bytes) -> str | None:
        nonlocal number
        number += 1
        raw = b"".join([*pending, tail]).removesuffix(b"\r").removeprefix(UTF8_MARK)  # files joined by cat have several
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            troubles.add("invalid_utf8", f"{name}:{number}")
            return None

    for chunk in chunks(path, name, troubles):
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
            troubles.add("line_too_long", f"{name}:{number + 1}")
            pending, size, skipping = [], 0, True
    if size and (text := whole(b"")) is not None:
        yield number, text


def content(path: Path, name: str, troubles: Troubles) -> str | None:
    """A whole file as text; None if it is not UTF-8 or longer than the longest line."""
    parts, size = [], 0
    for chunk in chunks(path, name, troubles):
        parts.append(chunk)
        size += len(chunk)
        if size > LONGEST_LINE:
            troubles.add("file_too_long", f"{name} (set data.plain_text to paragraph or line)")
            return None
    try:
        return b"".join(parts).decode("utf-8-sig")
    except UnicodeDecodeError:
        troubles.add("invalid_utf8", name)
        return None
