"""Finding studies: by the name of their results, or by their configuration files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from isotone.config.schema import merge, suggestion
from isotone.config.study import Study, read_study
from isotone.errors import ConfigurationError

RESULTS = Path("results")


def known_studies() -> list[str]:
    """Studies below ``results/`` that were started at least once, the last used first."""
    found = [path for path in RESULTS.glob("*/config.yaml") if path.is_file()]
    return [path.parent.name for path in sorted(found, key=lambda path: -path.stat().st_mtime)]


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path} cannot be read as YAML: {error}") from None


def study_of_results(name: str | None) -> tuple[Study, Path]:
    """A started study and its folder; without a name the one used last.

    Raises:
        ConfigurationError: if there is none of that name.
    """
    studies = known_studies()
    if name is None:
        if not studies:
            raise ConfigurationError(
                f"No study has been started here: {RESULTS}/*/config.yaml is missing. Say: make run"
            )
        name = studies[0]
    if name not in studies:
        known = suggestion(name, studies) if studies else " None has been started here."
        raise ConfigurationError(f"{RESULTS / name} holds no study.{known}")
    return read_study(_yaml(RESULTS / name / "config.yaml"), str(RESULTS / name / "config.yaml")), RESULTS / name


def study_of_files(names: Sequence[str]) -> Study:
    """The study that configuration files describe together, later ones on top.

    Raises:
        ConfigurationError: if they cannot be read or are wrong.
    """
    merged: dict[str, Any] = {}
    for name in names:
        raw = _yaml(Path(name))
        if not isinstance(raw, dict):
            raise ConfigurationError(f"{name} holds no settings (a mapping of keys to values).")
        merged = merge(merged, raw)
    return read_study(merged, ", ".join(names))
