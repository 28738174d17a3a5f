"""Tables for programs, for LaTeX and for a terminal; exports for the paper."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from isotone.records import Json
from isotone.reporting import final_results as final
from isotone.reporting.page.cards import card, write_cards
from isotone.reporting.page.paper import macro_name, methods_tex, numbers_tex
from isotone.reporting.page.terminal import WIDTH, terminal_summary
from isotone.reporting.tables.crossstudy import compare_studies, comparison
from isotone.reporting.tables.published import PUBLISHED
from isotone.reporting.tables.study import all_tables, write_tables
from isotone.reporting.tables.table import Column, Table, latex_text, text_of, to_csv, to_latex
from synthetic_study import Planted, study_settings, write_study

HOSTILE = r"<script>alert(1)</script> \input{/etc/passwd} 50% of $x_1$ & #2 ~ ^ { } | 日本 \\"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Json:
    study = study_settings(
        documents=12, resamples=300, transfer=("hotflip",), order=True, attacks=("hotflip", "uat", "random")
    )
    return final.build(study, write_study(tmp_path_factory.mktemp("study"), study, Planted(hostile=HOSTILE)))


def number(value: float, low: float | None = None, high: float | None = None) -> Json:
    interval = None if low is None else [low, high]
    return {"value": value, "unit": "nats/token", "n": 7, "interval": interval, "method": "mean", "rows": "k"}


TABLE = Table(
    "small",
    "A_title & more",
    "50 % of it",
    [Column("arm", "arm"), Column("J", "J", 2), Column("n", "n"), Column("ok", "ok")],
    [
        {"arm": "mlp_in~tempered", "J": number(0.125, 0.1, 0.15), "n": 3, "ok": True},
        {"arm": HOSTILE, "J": None, "n": None, "ok": False},
        {"arm": "[x]", "J": number(1.0), "n": 4, "ok": None},
    ],
)


def test_csv_gives_a_number_five_columns() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert rows[0] == {
        "arm": "mlp_in~tempered",
        "J": "0.125",
        "J_low": "0.1",
        "J_high": "0.15",
        "J_n": "7",
        "J_unit": "nats/token",
        "n": "3",
        "ok": "True",
    }
    assert rows[1]["arm"] == HOSTILE and rows[1]["J"] == rows[1]["J_low"] == "" == rows[1]["n"]
    assert rows[2]["J"] == "1.0" and rows[2]["J_low"] == ""


@pytest.mark.parametrize(
    ("cell", "digits", "text"),
    [
        (None, 3, "–"),
        (True, 3, "yes"),
        (0.12345, 3, "0.123"),
        (0.00001, 3, "1.00e-05"),
        (-2.5e7, 2, "-2.50e+07"),
        (0.0, 3, "0.000"),
        (12, 3, "12"),
        (number(0.5, 0.25, 0.75), 2, "0.50 [0.25, 0.75]"),
        (number(0.5), 2, "0.50"),
    ],
)
def test_cells_for_readers(cell: object, digits: int, text: str) -> None:
    assert text_of(cell, digits) == text  # type: ignore[arg-type]


def test_latex_is_escaped() -> None:
    text = to_latex(TABLE)
    assert r"mlp\_in\textasciitilde{}tempered" in text
    assert r"\textbackslash{}input\{/etc/passwd\}" in text and r"50\% of \$x\_1\$ \& \#2" in text
    assert "??" in text  # what the font lacks is not printed as something else
    assert "{}[x]" in text  # or \\ would take it for its argument
    assert r"\begin{tabular}{lrrr}" in text and text.count(r"\\") == 1 + 3
    assert "booktabs" in text


def test_all_special_characters_of_latex_are_covered() -> None:
    for letter in "\\&%$#_{}~^":
        assert latex_text(letter) != letter
    assert latex_text("plain text, 1-2.") == "plain text, 1-2."


def test_every_table_is_there(document: Json) -> None:
    names = {table.name for table in all_tables(document)}
    assert names == {
        "verdicts", "primary", "quality", "attacks", "success", "comparisons", "gates", "certificates", "training", "transfer_hotflip", "published", "costs", "screening", "seeds",
    }  # fmt: skip
    arms = [row["arm"] for row in next(table for table in all_tables(document) if table.name == "quality").rows]
    assert arms[0] == "baseline" and arms.index("mlp_in") < arms.index("mlp_in~tempered")


def test_the_published_numbers_stand_beside_ours(document: Json) -> None:
    table = next(table for table in all_tables(document) if table.name == "published")
    assert len(table.rows) == len(PUBLISHED) + 4
    published = {row["arm"]: row for row in table.rows if "published" in str(row["study"])}
    seed_42, three = published["mlp_both (seed 42)"], published["mlp_both (mean of three seeds)"]
    assert (seed_42["perplexity"], seed_42["success"], seed_42["trigger"]) == (36.01, 0.435, 0.088)
    assert (three["perplexity"], three["success"], three["trigger"]) == (37.68, 0.425, 0.106)
    assert published["mlp_in"]["success"] == 0.835
    ours = next(row for row in table.rows if row["arm"] == "mlp_both" and "this study" in str(row["study"]))
    assert ours["success"] == document["results"]["damage"]["mlp_both"]["hotflip"]["one_shot"]["published_success"]
    for words in (
        "not to conclude",
        "10 on each of 200 documents",
        "protocol rolling, 5 flips on each of 12 documents",
    ):
        assert words in table.note


def test_the_overviews_repeat_the_numbers(document: Json) -> None:
    tables = {table.name: table for table in all_tables(document)}
    results = document["results"]
    line = next(row for row in tables["screening"].rows if row["arm"] == "mlp_both")
    assert line["scope"] == "mlp_both" and line["certificate"] == "conditional, vacuous"
    assert line["hotflip"] == results["damage"]["mlp_both"]["hotflip"]["greedy"]["J"]
    assert "hotflip: " in str(line["excess"])
    seeds = [row for row in tables["seeds"].rows if row["arm"] == "mlp_both"]
    assert [row["seed"] for row in seeds] == [42, 1337, 2024], "in the order of numbers, not of letters"
    mean = sum(float(row["hotflip"]) for row in seeds) / 3  # type: ignore[arg-type]
    assert mean == pytest.approx(results["damage"]["mlp_both"]["hotflip"]["greedy"]["J"]["value"])


def test_costs_count_seconds_tokens_and_gpus(document: Json, tmp_path: Path) -> None:
    from isotone.records import read_json
    from isotone.reporting.analysis.costs import costs
    from isotone.reporting.evidence.read import load_evidence
    from synthetic_study import write_json

    line = next(
        row
        for row in next(table for table in all_tables(document) if table.name == "costs").rows
        if row["run"] == "lift/seed-42"
    )
    assert line["train"] == 12.5 and line["sum"] == 12.5 + 2 + 9 * 3
    assert line["trained"] == 81920 and line["forward"] == 6000 * (
        12 * 6 + 8 * 2
    )  # six forms, two of them once more on 8
    study = study_settings(arms=("baseline", "mlp_in"), seeds=(7,), attacks=("hotflip",), documents=4, controls=())
    folder = write_study(tmp_path, study)
    assert costs(load_evidence(study, folder))["gpu_hours"] == 0
    setup = read_json(folder / "setup.json")
    write_json(folder / "setup.json", setup | {"cost": {"devices": {"gpus": ["one"]}}})
    trained = folder / "runs/mlp_in/seed-7/train.json"
    write_json(trained, read_json(trained) | {"cost": {"seconds": 100.0, "device": "cuda:0", "processes": 4}})
    other = folder / "runs/baseline/seed-7/train.json"
    write_json(other, read_json(other) | {"cost": {"seconds": 50.0, "device": "cpu"}})
    found = costs(load_evidence(study, folder))
    assert found["gpu_hours"] == pytest.approx((400 + 2 * (2 + 9)) / 3600)
    assert found["gpu_hours_by_run"]["mlp_in/seed-7"] == pytest.approx((400 + 2 + 9) / 3600)
    shown = next(table for table in all_tables(final.build(study, folder)) if table.name == "costs")
    assert "gpu_hours" in {column.key for column in shown.columns}


def test_files_of_tables(document: Json, tmp_path: Path) -> None:
    write_tables(tmp_path / "tables", document)
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert {"primary.csv", "primary.tex", "transfer_hotflip.csv", "paper"} <= names
    for path in (tmp_path / "tables").glob("*.csv"):
        lengths = {len(row) for row in csv.reader(path.open(encoding="utf-8"))}
        assert len(lengths) == 1, path


def test_the_terminal_summary_fits_a_terminal(document: Json) -> None:
    text = terminal_summary(document)
    assert document["digest"] in text and document["results"]["summary"]["headline"].split()[0] in text
    prose = [line for line in text.split("\n") if not line.startswith("  ") or line.startswith("  - ")]
    assert max(map(len, prose)) <= WIDTH
    assert "<script>" not in text


def test_macros(document: Json) -> None:
    assert macro_name("damage", "mlp_in~tempered", "J > 0.5", "k1") == "isoDamageMlpInTemperedJZeroFiveKOne"
    text = numbers_tex(document)
    names = re.findall(r"\\newcommand\{\\(\w+)\}", text)
    assert len(names) == len(set(names)) and all(name.isalpha() for name in names)
    J = document["results"]["damage"]["mlp_both"]["hotflip"]["greedy"]["J"]
    assert rf"\newcommand{{\isoDamageMlpBothHotflipGreedyJ}}{{{J['value']:.3f}}}" in text
    low, high = J["interval"]
    assert rf"\newcommand{{\isoDamageMlpBothHotflipGreedyJInterval}}{{[{low:.3f}, {high:.3f}]}}" in text
    assert r"\isoExcessLiftHotflipBaselineDamageCal}" in text and r"\isoPMlpInHotflipNoised}" in text
    word = next(entry["word"] for entry in document["results"]["verdicts"] if entry["arm"] == "mlp_in")
    assert rf"\newcommand{{\isoVerdictMlpInHotflip}}{{{word.replace('_', ' ')}}}" in text


def test_two_numbers_never_share_a_macro(document: Json) -> None:
    clash = {**document, "results": {**document["results"]}}
    quality = dict(clash["results"]["quality"])
    quality["mlp-in"] = quality["mlp_in"]
    clash["results"]["quality"] = quality
    with pytest.raises(ValueError, match="would both be called"):
        numbers_tex(clash)


def test_methods_follow_from_the_settings(document: Json) -> None:
    import copy

    text = methods_tex(document)
    assert "3 seeds (42, 1337, 2024)" in text and r"mlp\_both (scope mlp\_both" in text and r"\cite{holm1979}" in text
    changed = copy.deepcopy(document)
    changed["results"]["settings"]["seeds"] = [5]
    changed["results"]["settings"]["attacks"]["hotflip"]["flips"] = 17
    changed["results"]["settings"]["model"] |= {"source": "hub", "name": "EleutherAI/pythia-70m", "revision": "abc"}
    again = methods_tex(changed)
    assert "1 seed (5)" in again and "HotFlip 17 flips" in again and "EleutherAI/pythia-70m, revision abc" in again


def test_every_citation_has_a_reference(document: Json) -> None:
    from isotone.reporting.page.references import REFERENCES

    cited = set(re.findall(r"\\cite\{(\w+)\}", methods_tex(document)))
    known = set(re.findall(r"@\w+\{(\w+),", REFERENCES))
    assert cited and cited <= known
    assert REFERENCES.count("{") == REFERENCES.count("}")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no TeX is installed (pdflatex not found)")
def test_latex_compiles(document: Json, tmp_path: Path) -> None:
    write_tables(tmp_path / "tables", document)
    (tmp_path / "tables" / "small.tex").write_text(to_latex(TABLE), encoding="utf-8")
    inputs = "\n".join(rf"\input{{tables/{path.stem}}}" for path in sorted((tmp_path / "tables").glob("*.tex")))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass[twocolumn]{article}\n\\usepackage[utf8]{inputenc}\\usepackage[T1]{fontenc}\\usepackage{booktabs,graphicx}\n"
        "\\extrafloats{100}\n"
        "\\input{tables/paper/numbers}\n\\begin{document}\n"
        "Excess \\isoExcessLiftHotflip{} \\isoExcessLiftHotflipInterval.\n\\input{tables/paper/methods}\n"
        f"{inputs}\n\\end{{document}}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"], cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")
    assert "Undefined control sequence" not in done.stdout


def test_a_card_beside_each_model(document: Json, tmp_path: Path) -> None:
    written = write_cards(tmp_path, document)
    assert len(written) == 12 and tmp_path / "runs/lift/seed-42/MODEL_CARD.md" in written
    text = written[0].read_text()
    assert document["digest"] in text and "fp32 safetensors" in text
    constrained = card(document, "mlp_both", 42)
    assert "scope `mlp_both`" in constrained and "mlp_both under hotflip" in constrained
    assert document["results"]["training"]["mlp_both/seed-42"]["weights_sha256"] in constrained


def test_studies_are_listed_and_never_pooled(document: Json, tmp_path: Path) -> None:
    from isotone.errors import ConfigurationError

    study = study_settings(
        name="other",
        arms=("baseline", "mlp_in"),
        attacks=("query",),
        control_attacks=("query",),
        documents=12,
        resamples=300,
    )
    other = final.build(study, write_study(tmp_path / "other", study))
    paths = []
    for name, content in (("one", document), ("two", other)):
        paths.append(tmp_path / f"{name}.json")
        final.write(paths[-1], content)
    arms, claims = compare_studies(paths, tmp_path / "comparison")
    assert [row["study"] for row in arms.rows] == ["synthetic"] * 4 + ["other"] * 2
    assert arms.rows[0]["parameters"] == 1_800_000
    assert arms.rows[0]["query"] is None and arms.rows[4]["hotflip"] is None
    assert {row["arm"] for row in claims.rows if row["study"] == "other"} == {"mlp_in"}
    assert (tmp_path / "comparison/studies.csv").is_file() and (tmp_path / "comparison/verdicts.tex").is_file()
    with pytest.raises(ConfigurationError, match="given twice"):
        comparison([document, document])
