"""Tiny studies that the tests of this folder train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.resume.runs import Case, weights
from tests.resume.tiny import CONSTRAINED, Study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Model and data, with constrained start weights."""
    return Study.make(tmp_path_factory.mktemp("study"), model={"constraint": CONSTRAINED})


@pytest.fixture(scope="session")
def undisturbed(study: Study, tmp_path_factory: pytest.TempPathFactory) -> str:
    """SHA-256 of the final weights of the ordinary run, which nothing disturbed."""
    case = Case(study, tmp_path_factory.mktemp("undisturbed"))
    assert case.start().wait() == 0, case.text()
    return weights(case.place)


@pytest.fixture
def case(study: Study, tmp_path: Path) -> Case:
    """A place for one run."""
    return Case(study, tmp_path)
