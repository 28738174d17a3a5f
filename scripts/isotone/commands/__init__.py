"""Subcommands of `python -m isotone`: each module has ``options(parser)`` and ``run(arguments)``."""

from collections.abc import Callable

Verdict = tuple[str, str]  # green, yellow or red, and what was seen
Check = tuple[str, Callable[[], Verdict]]
