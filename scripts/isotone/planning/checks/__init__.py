"""The doctor's checks."""

from collections.abc import Callable

Verdict = tuple[str, str]  # green, yellow or red, and what was seen
Check = tuple[str, Callable[[], Verdict]]
