"""What the README claims is what the verdicts of a kept study say, letter for letter."""

from __future__ import annotations

from pathlib import Path

import pytest
from isotone.errors import ConfigurationError
from isotone.records import read_json, write_json
from isotone.reporting import final_results as final
from isotone.reporting.page import readme
from synthetic_study import Planted, study_settings, write_study


def test_the_readme_is_what_the_kept_study_says(root: Path) -> None:
    text, path = (root / "README.md").read_text(encoding="utf-8"), root / "docs/result.json"
    kept = read_json(path) if path.is_file() else None
    assert readme.put(text, kept) == text, "run `make readme`"


def test_a_finished_study_is_put_into_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_settings(arms=("baseline", "mlp_in"), attacks=("hotflip",), documents=12, resamples=200)
    planted = Planted(damage={"mlp_in": -0.2}, seed_spread=0.002, noise=0.01)
    document = final.build(study, write_study(tmp_path / "study", study, planted))
    write_json(tmp_path / "final_results.json", document)
    path = tmp_path / "README.md"
    path.write_text(f"before\n{readme.BEGIN}\nan older claim\n{readme.END}\nafter\n")
    names = ["--readme", path, "--kept", tmp_path / "kept.json"]
    monkeypatch.setattr("sys.argv", ["readme", *map(str, [tmp_path / "final_results.json", *names])])
    assert readme.main() == 0
    text = path.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "an older claim" not in text
    assert document["results"]["summary"]["headline"] in text
    assert all(sentence in text for sentence in document["results"]["summary"]["robustness"])
    assert "| `mlp_in` | " in text and "| noised | " in text and " | more robust |" in text
    assert readme.put(text, read_json(tmp_path / "kept.json")) == text


def test_a_readme_without_its_marks_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="once"):
        readme.put("no marks", None)
    with pytest.raises(ConfigurationError, match="once"):
        readme.put(f"{readme.END} {readme.BEGIN}", None)
