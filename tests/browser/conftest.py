"""A real headless Chromium, driven over its own protocol; every page is a study with planted effects."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
HOSTILE = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
QUIET = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if BROWSER and DRIVER:
        return
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker(pytest.mark.skip(reason="no browser: install Debian's chromium and chromium-driver"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in [*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small study whose corpus tries to break out of the page."""
    from isotone.reporting import final_results as final
    from isotone.reporting.figures.draw import write_figures
    from isotone.reporting.page.html import render
    from synthetic_study import Planted, study_settings, write_study

    study = study_settings(documents=12, resamples=300, transfer=("hotflip",), title="Hostile <b>title</b>")
    folder = write_study(
        tmp_path_factory.mktemp("results") / "synthetic", study, Planted(damage={"mlp_both": -0.1}, hostile=HOSTILE)
    )
    final.write(folder / "final_results.json", final.build(study, folder))
    document = final.read(folder / "final_results.json")
    write_figures(folder / "figures", document, folder)
    (folder / "report.html").write_text(render(document, folder), encoding="utf-8")
    return folder / "report.html"
