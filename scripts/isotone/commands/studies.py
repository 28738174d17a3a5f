"""Finding studies by the name of their results."""

from __future__ import annotations

from pathlib import Path

from isotone.errors import ConfigurationError
from isotone.schema import suggestion
from isotone.studies.reading import study_of
from isotone.studies.study import Study

RESULTS = Path("results")


def known_studies() -> list[str]:
    """Studies below ``results/`` that were started at least once, the last used first."""
    found = [path for path in RESULTS.glob("*/config.yaml") if path.is_file()]
    return [path.parent.name for path in sorted(found, key=lambda path: -path.stat().st_mtime)]


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
    return study_of([RESULTS / name / "config.yaml"]), RESULTS / name
