"""The report as a reader meets it: no error, no request, text stays text, tables sort, every width and colour scheme."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest


def visit(
    browser: Any, page: Path, *, width: int = 1280, height: int = 900, dark: bool = False, media: str = ""
) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())


def picture(browser: Any, tmp_path: Path, name: str) -> bytes:
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    content = base64.b64decode(shot["data"])
    (tmp_path / f"{name}.png").write_bytes(content)
    return content


def requests(browser: Any) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        and not message["params"]["request"]["url"].startswith("data:")
    ]


def test_no_console_error_and_no_request(browser: Any, page: Path) -> None:
    visit(browser, page)
    assert browser.get_log("browser") == []
    assert requests(browser) == [page.as_uri()]


def test_the_log_would_show_an_error(browser: Any, page: Path, tmp_path: Path) -> None:
    """The control: a page with a fault and a request is noticed."""
    broken = tmp_path / "broken.html"
    broken.write_text('<!DOCTYPE html><title>x</title><img src="missing.png"><script>null.x</script>')
    visit(browser, broken)
    assert browser.get_log("browser")
    assert len(requests(browser)) == 2


def test_hostile_text_stays_text(browser: Any, page: Path) -> None:
    visit(browser, page)
    assert browser.title == "Hostile <b>title</b> – Isotone"
    assert browser.execute_script("return document.querySelectorAll('h1 b, .example img, .example script').length") == 0
    assert browser.execute_script("return document.scripts.length") == 1
    text = browser.execute_script("return document.querySelector('.example .text').textContent")
    assert "<script>document.title='broken'</script>" in text


def test_an_injected_script_would_not_run(browser: Any, page: Path, tmp_path: Path) -> None:
    """Should escaping ever fail, the page's own policy still stops the script."""
    leaky = tmp_path / "leaky.html"
    text = page.read_text(encoding="utf-8")
    leaky.write_text(text.replace("<main>", "<main><script>document.title='broken'</script>"), encoding="utf-8")
    visit(browser, leaky)
    assert browser.title != "broken"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def column(browser: Any, table: str, index: int) -> list[str]:
    script = "return [...document.querySelectorAll(`#table-${arguments[0]} tbody tr`)].map(r => r.cells[arguments[1]].dataset.sort)"
    return browser.execute_script(script, table, index)


def click(browser: Any, table: str, index: int) -> str:
    script = (
        "const h = document.querySelectorAll(`#table-${arguments[0]} th`)[arguments[1]]; h.click(); return h.ariaSort"
    )
    return browser.execute_script(script, table, index)


def test_tables_sort_by_number_and_by_text(browser: Any, page: Path) -> None:
    visit(browser, page)
    assert click(browser, "attacks", 3) == "ascending"
    values = [float(value) for value in column(browser, "attacks", 3)]
    assert len(values) > 20 and values == sorted(values)
    assert click(browser, "attacks", 3) == "descending"
    assert [float(value) for value in column(browser, "attacks", 3)] == sorted(values, reverse=True)
    click(browser, "attacks", 0)
    names = column(browser, "attacks", 0)
    assert names == sorted(names, key=str.lower)
    assert browser.execute_script("return document.querySelectorAll('#table-attacks th[aria-sort]').length") == 1


def test_cells_without_a_number_stay_below(browser: Any, page: Path) -> None:
    visit(browser, page)
    for _ in range(2):
        click(browser, "quality", 6)
        values = column(browser, "quality", 6)
        first_empty = values.index("")
        assert all(values[:first_empty]) and not any(values[first_empty:])


def test_sorting_by_keyboard(browser: Any, page: Path) -> None:
    visit(browser, page)
    script = """const h = document.querySelectorAll('#table-quality th')[2]; h.focus();
        h.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true})); return [document.activeElement === h, h.ariaSort]"""
    assert browser.execute_script(script) == [True, "ascending"]


def test_a_number_leads_to_its_rows(browser: Any, page: Path) -> None:
    visit(browser, page)
    script = (
        "const a = document.querySelector('#table-primary td.num a'); a.click(); return a.getAttribute('href').slice(1)"
    )
    key = browser.execute_script(script)
    opened = browser.execute_script("return document.getElementById(arguments[0]).open", key)
    link = browser.execute_script("return document.querySelector(`[id='${arguments[0]}'] a`).getAttribute('href')", key)
    assert opened and (page.parent / link.replace("%7E", "~")).is_file()


@pytest.mark.parametrize(
    ("name", "width", "dark"), [("desktop", 1280, False), ("phone", 360, False), ("dark", 1280, True)]
)
def test_nothing_hangs_over_the_edge(
    browser: Any, page: Path, tmp_path: Path, name: str, width: int, dark: bool
) -> None:
    visit(browser, page, width=width, dark=dark)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    assert len(picture(browser, tmp_path, name)) > 20_000
    small = "return [...document.querySelectorAll('p, li, td, figcaption')].some(e => parseFloat(getComputedStyle(e).fontSize) < 12)"
    assert not browser.execute_script(small)
    assert browser.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")


CONTRAST = """
const parse = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
const shine = c => parse(c).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!c.endsWith(', 0)')) return c; } return 'rgb(255,255,255)'; };
return [...document.querySelectorAll('p, li, td, th, h1, h2, h3, figcaption, a, ins, del, .state, summary')].map(e => {
    const [a, b] = [shine(getComputedStyle(e).color), shine(ground(e))].sort((x, y) => y - x);
    return [(a + .05) / (b + .05), e.tagName, e.className];
}).sort((x, y) => x[0] - y[0])[0];
"""


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_has_enough_contrast(browser: Any, page: Path, dark: bool) -> None:
    """WCAG 2.1 AA asks for 4.5 : 1."""
    visit(browser, page, dark=dark)
    worst = browser.execute_script(CONTRAST)
    assert worst[0] >= 4.5, worst


def test_light_and_dark_differ(browser: Any, page: Path) -> None:
    grounds = []
    for dark in (False, True):
        visit(browser, page, dark=dark)
        grounds.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] == "rgb(255, 255, 255)" != grounds[1]


def test_print_shows_whole_tables(browser: Any, page: Path, tmp_path: Path) -> None:
    visit(browser, page, media="print")
    hidden = "return [...document.querySelectorAll('.scroll')].some(e => e.scrollHeight > e.clientHeight + 1 && getComputedStyle(e).overflowY !== 'visible')"
    assert not browser.execute_script(hidden)
    assert browser.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    paper = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    (tmp_path / "report.pdf").write_bytes(paper)
    assert paper.startswith(b"%PDF") and len(paper) > 50_000
