"""Snakemake's own report of a finished study: captions and categories."""

from __future__ import annotations

from pathlib import Path

from tests.workflow.conftest import run


def test_snakemakes_report_has_captions_and_categories(finished: Path, tmp_path: Path) -> None:
    page = tmp_path / "snakemake.html"
    done = run(finished, "-m", "snakemake", "--report", str(page), "--configfile", "config/smoke.yaml")
    assert done.returncode == 0, done.stderr[-2000:]
    text = page.read_text()
    for category in ("Figures", "Tables", "Report"):
        assert f'"{category}"' in text
    captions = list((finished / "report").glob("*.rst"))
    assert captions
    for caption in captions:
        words = " ".join(caption.read_text().split()[:4])  # behind these a caption may hold markup
        assert words in text, caption.name
