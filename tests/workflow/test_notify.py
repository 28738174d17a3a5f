"""The user's own command at the end of a real workflow: what it is told, and that it can break nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workflow.conftest import copy_checkout, run

TARGET = "results/smoke/data/corpus.json"  # the cheapest job of a study
TELL = 'printf "%s|%s|%s|%s\\n" "$ISOTONE_STATUS" "$ISOTONE_STUDY" "$ISOTONE_FOLDER" "$ISOTONE_REPORT" >> told.txt'


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(root, tmp_path_factory.mktemp("notify") / "checkout")


def make(checkout: Path, notify: str, **data: Any) -> tuple[int, str, list[str]]:
    """Run the cheap target with this command; exit code, what was said, and what the command wrote down."""
    settings = yaml.safe_load((checkout / "config/smoke.yaml").read_text(encoding="utf-8"))
    settings["operation"] = settings.get("operation", {}) | {"notify": notify}
    settings["data"] = settings.get("data", {}) | data
    (checkout / "notify.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    told = checkout / "told.txt"
    told.unlink(missing_ok=True)
    done = run(checkout, "-m", "snakemake", "--cores", "1", "--configfile", "notify.yaml", "--", TARGET)
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    return done.returncode, done.stdout + done.stderr, lines


def test_the_command_hears_of_success_and_its_own_failure_breaks_nothing(checkout: Path) -> None:
    code, said, lines = make(checkout, TELL)
    assert code == 0, said
    assert lines == ["success|smoke|results/smoke|"]  # a part of a study has no report yet
    report = checkout / "results/smoke/report.html"
    report.write_text("a page", encoding="utf-8")
    (checkout / TARGET).unlink()
    code, said, lines = make(checkout, f"{TELL}; exit 9")
    assert code == 0 and "ended with code 9; the study is not touched" in said, said
    assert lines == ["success|smoke|results/smoke|results/smoke/report.html"]
    assert (checkout / TARGET).is_file()


def test_the_command_hears_of_failure(checkout: Path) -> None:
    (checkout / "empty.txt").write_text("", encoding="utf-8")
    code, said, lines = make(checkout, TELL, source="local", path="empty.txt")
    assert code == 1, said
    assert lines == ["failure|smoke|results/smoke|"]


def test_without_a_command_nothing_is_run(checkout: Path) -> None:
    code, said, lines = make(checkout, "")
    assert code == 0 and lines == [], said
