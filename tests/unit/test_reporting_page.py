"""The page, the figures, the archive, the programs: self-contained, escaped, the same bytes from the same rows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import html5lib
import pytest
from isotone.errors import ConfigurationError, InputOutputError
from isotone.records import Json, canonical_json, read_json
from isotone.reporting import final_results as final
from isotone.reporting.archive import pack, rebuild, unpack
from isotone.reporting.figures import robustness
from isotone.reporting.figures.draw import write_figures
from isotone.reporting.figures.style import save
from isotone.reporting.notify import notify
from isotone.reporting.page.html import render
from isotone.studies.study import Study
from synthetic_study import Planted, settings_of, study_settings, write_study

HOSTILE = "<script>document.title='broken'</script><img src=x onerror=alert(1)>\"'&\u2028"
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def study() -> Study:
    return study_settings(
        arms=("baseline", "mlp_in"),
        seeds=(7, 8),
        attacks=("hotflip", "uat"),
        documents=10,
        resamples=300,
        transfer=("hotflip",),
        order=True,
    )


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study, figures included, with hostile text in documents and triggers."""
    top = write_study(tmp_path_factory.mktemp("results") / "synthetic", study, Planted(hostile=HOSTILE))
    final.write(top / "final_results.json", final.build(study, top))
    write_figures(top / "figures", final.read(top / "final_results.json"), top)
    return top


@pytest.fixture(scope="module")
def document(folder: Path) -> Json:
    return final.read(folder / "final_results.json")


@pytest.fixture(scope="module")
def page(document: Json, folder: Path) -> str:
    return render(document, folder)


def test_the_page_is_valid_html(page: str) -> None:
    html5lib.HTMLParser(strict=True).parse(page)


def test_the_validator_would_notice() -> None:
    with pytest.raises(html5lib.html5parser.ParseError):
        html5lib.HTMLParser(strict=True).parse("<!DOCTYPE html><p><b></p>")


def test_the_page_asks_for_nothing(page: str) -> None:
    tree = html5lib.HTMLParser(namespaceHTMLElements=False).parse(page)
    for element in tree.iter():
        for name in ("src", "href", "action", "data"):
            value = element.get(name) or "" if isinstance(element.tag, str) else ""
            if name == "href" and element.tag == "a":
                assert not re.match(r"[a-z]+:|//", value), value
            elif value:
                assert value.startswith("data:"), (element.tag, value)
    assert "@import" not in page and "url(" not in page
    assert "default-src 'none'" in page


def test_hostile_text_stays_text(page: str) -> None:
    assert page.count("<script>") == 1  # our own
    assert "onerror=alert" in page and "<img src=x" not in page
    assert "&lt;script&gt;document.title" in page
    tree = html5lib.HTMLParser(namespaceHTMLElements=False).parse(page)
    assert all(element.get("onerror") is None for element in tree.iter() if isinstance(element.tag, str))


def test_only_our_own_script_may_run(page: str) -> None:
    import base64
    import hashlib

    for tag in ("script", "style"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in page
    assert " style=" not in page and "unsafe-inline" not in page


def test_hostile_arm_title_is_escaped(document: Json, folder: Path) -> None:
    import copy

    changed = copy.deepcopy(document)
    changed["results"]["settings"]["report"]["title"] = HOSTILE
    changed["results"]["summary"]["headline"] = HOSTILE
    assert render(changed, folder).count("<script>") == 1


def test_the_summary_and_every_table_stand_on_the_page(page: str, document: Json) -> None:
    tree = html5lib.HTMLParser(namespaceHTMLElements=False).parse(page)
    text = " ".join("".join(tree.itertext()).split())
    for sentences in document["results"]["summary"].values():
        for sentence in [sentences] if isinstance(sentences, str) else sentences:
            assert sentence in text
    for name in ("primary", "quality", "gates", "certificates", "transfer_hotflip", "published"):
        assert f'id="table-{name}"' in page
    for name in ("excess", "damage_flips", "transfer_hotflip", "order", "timeline"):
        assert f'id="figure-{name}"' in page
    assert document["digest"] in page


def test_numbers_link_to_their_rows(page: str, document: Json) -> None:
    key = document["results"]["damage"]["mlp_in"]["hotflip"]["greedy"]["J"]["rows"]
    assert f'href="#rows-{key}"' in page and f'id="rows-{key}"' in page
    assert 'href="runs/mlp_in/seed-7/attacks/hotflip.jsonl"' in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]+)"', page):
        assert target in ids


def test_changed_tokens_are_marked(page: str) -> None:
    tree = html5lib.HTMLParser(namespaceHTMLElements=False).parse(page)
    marked = [element.text for element in tree.iter("ins")]
    assert " qz" in marked and len(list(tree.iter("del"))) == 5 * 2 * 2  # flips x documents x arms
    assert any("document.title" in (text or "") for text in marked)  # the trigger, as text


def test_no_examples_no_section(document: Json, folder: Path) -> None:
    import copy

    changed = copy.deepcopy(document)
    changed["results"]["settings"]["report"]["examples"] = 0
    changed["results"]["triggers"] = {}
    text = render(changed, folder)
    assert 'id="examples"' not in text and 'href="#triggers"' not in text


def test_failed_gates_are_loud(document: Json, folder: Path) -> None:
    import copy

    changed = copy.deepcopy(document)
    changed["results"]["gates"][0]["state"] = "fail"
    assert '<span class="bad">1 failed</span>' in render(changed, folder)


def test_figures_are_the_same_bytes_again(document: Json, folder: Path, tmp_path: Path) -> None:
    names = write_figures(tmp_path / "figures", document, folder)
    assert len(names) == 11
    for name in names:
        for suffix in (".pdf", ".png"):
            assert (tmp_path / "figures" / (name + suffix)).read_bytes() == (
                folder / "figures" / (name + suffix)
            ).read_bytes(), name
    content = (folder / "figures/excess.pdf").read_bytes()
    assert b"CreationDate" not in content and b"/Type3" not in content


def test_figures_follow_the_data(document: Json, folder: Path, tmp_path: Path) -> None:
    import copy

    changed = copy.deepcopy(document)
    difference = changed["results"]["primary"][0]["outcomes"]["damage_cal"]["difference"]
    difference["value"] += 0.5
    difference["interval"][1] += 1
    save(robustness.excess(changed["results"]), tmp_path, "excess")
    assert (tmp_path / "excess.png").read_bytes() != (folder / "figures/excess.png").read_bytes()
    save(robustness.excess(document["results"]), tmp_path, "excess")
    assert (tmp_path / "excess.png").read_bytes() == (folder / "figures/excess.png").read_bytes()


def test_figures_without_data_are_left_out(document: Json, tmp_path: Path) -> None:
    import copy

    bare = copy.deepcopy(document)
    bare["results"] |= {"primary": [], "order": {}, "transfer": {}}
    for forms in bare["results"]["damage"].values():
        for entries in forms.values():
            for entry in entries.values():
                entry |= {"curve": None, "compute": None, "flips_needed": None, "distance": []}
    empty = tmp_path / "empty"
    for arm in ("baseline", "mlp_in"):
        for seed in (7, 8):
            (empty / f"runs/{arm}/seed-{seed}").mkdir(parents=True)
            (empty / f"runs/{arm}/seed-{seed}/history.csv").write_text("step,loss\n")
    assert write_figures(tmp_path / "figures", bare, empty) == ["quality_robustness", "training", "thresholds"]


def test_smoothing_does_not_shift() -> None:
    import numpy as np
    from isotone.reporting.figures.training import smooth

    line = np.arange(50.0)
    assert np.allclose(smooth(line, 5)[2:-2], line[2:-2])
    assert smooth(line, 1) is line


# ---- archive ---------------------------------------------------------------------------------------------------------


def test_the_report_comes_back_from_the_archive_alone(folder: Path, page: str, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==2.4.6\n")
    manifest = pack(folder, tmp_path / "study.tar.gz", lock)
    with tarfile.open(tmp_path / "study.tar.gz") as archive:
        names = archive.getnames()
    assert not any("safetensors" in name or "/model/" in name for name in names)
    assert "synthetic/requirements.lock" in names and "synthetic/settings.json" in names
    report = rebuild(tmp_path / "study.tar.gz", tmp_path / "elsewhere")
    assert report.read_text(encoding="utf-8") == page
    assert read_json(tmp_path / "elsewhere/synthetic/final_results.json")["digest"] == manifest["digest"]
    for figure in (folder / "figures").iterdir():
        assert (tmp_path / "elsewhere/synthetic/figures" / figure.name).read_bytes() == figure.read_bytes()


def test_packing_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "one.tar.gz")
    os.utime(folder / "final_results.json")
    pack(folder, tmp_path / "two.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_a_damaged_or_changed_archive_is_refused(folder: Path, tmp_path: Path) -> None:
    whole = tmp_path / "study.tar.gz"
    pack(folder, whole)
    (tmp_path / "cut.tar.gz").write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(InputOutputError, match="no whole archive"):
        unpack(tmp_path / "cut.tar.gz", tmp_path / "a")
    top = unpack(whole, tmp_path / "b")
    rows = top / "runs/mlp_in/seed-7/attacks/hotflip.jsonl"
    rows.write_text(rows.read_text().replace("0.", "1.", 1))
    with tarfile.open(tmp_path / "changed.tar.gz", "w:gz") as archive:
        archive.add(top, "synthetic")
    with pytest.raises(InputOutputError, match=r"hotflip\.jsonl is not what the manifest says"):
        unpack(tmp_path / "changed.tar.gz", tmp_path / "c")


def test_an_archive_that_this_version_computes_otherwise_is_refused(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "study.tar.gz")
    top = unpack(tmp_path / "study.tar.gz", tmp_path / "a")
    manifest = read_json(top / "manifest.json") | {"digest": "0" * 64}
    (top / "manifest.json").write_text(canonical_json(manifest))
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(top, "synthetic")
    with pytest.raises(InputOutputError, match="the archive says 000000000000"):
        rebuild(tmp_path / "other.tar.gz", tmp_path / "b")


def test_an_unfinished_study_is_not_archived(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not finished"):
        pack(tmp_path, tmp_path / "study.tar.gz")
    assert not (tmp_path / "study.tar.gz").exists()


# ---- notify ----------------------------------------------------------------------------------------------------------


def test_the_users_command_hears_what_happened(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "said"
    command = f'echo "$ISOTONE_STATUS $ISOTONE_STUDY $ISOTONE_REPORT" > {out}'
    (folder / "report.html").write_text("page")
    assert notify(command, "success", "kjv", folder) == 0
    assert out.read_text().split() == ["success", "kjv", str(folder / "report.html")]
    assert notify(command, "failure", "kjv", folder) == 0
    assert out.read_text().split() == ["failure", "kjv"]


def test_a_failing_command_fails_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notify("", "success", "kjv", tmp_path) is None
    assert notify("exit 3", "success", "kjv", tmp_path) == 3
    assert "code 3; the study is not touched" in capsys.readouterr().err
    monkeypatch.setattr("isotone.reporting.notify.SECONDS", 0.2)
    assert notify("sleep 5", "success", "kjv", tmp_path) is None
    assert "did not end well" in capsys.readouterr().err


# ---- programs --------------------------------------------------------------------------------------------------------


def program(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def test_the_programs_in_a_row(study: Study, tmp_path: Path) -> None:
    top = write_study(tmp_path / "synthetic", study)
    settings = canonical_json(settings_of(study))
    outputs = [
        "--results",
        top / "final_results.json",
        "--summary",
        top / "experiment_summary.txt",
        "--tables",
        top / "tables",
    ]
    done = program("aggregate", "--settings", settings, "--folder", top, *outputs)
    assert done.returncode == 0, done.stderr
    assert "Compared with controls of equal clean loss" in done.stdout and "torch" not in done.stderr
    assert program("figures", "--settings", settings, "--folder", top, "--figures", top / "figures").returncode == 0
    assert program("report", "--settings", settings, "--folder", top, "--report", top / "report.html").returncode == 0
    assert (top / "report.html").stat().st_size > 100_000
    done = program("archive", "--folder", top, "--out", tmp_path / "a.tar.gz")
    assert done.returncode == 0 and "files" in done.stdout
    (top / "runs/mlp_in/seed-8/attacks/hotflip.jsonl").unlink()
    kept = (top / "final_results.json").read_bytes()
    done = program("aggregate", "--settings", settings, "--folder", top, *outputs)
    assert done.returncode == 78 and "Traceback" not in done.stderr
    assert "hotflip.jsonl is missing" in done.stderr and "--profile profiles/local --configfile" in done.stderr
    assert (top / "final_results.json").read_bytes() == kept


def test_help_is_quick_and_heavy_libraries_stay_out(study: Study) -> None:
    for name in ("aggregate", "figures", "report", "archive"):
        assert "usage" in program(name, "--help").stdout
    code = (
        "import sys, isotone.reporting.page.html, isotone.reporting.final_results, isotone.reporting.tables.study; "
        "print([name for name in ('torch', 'transformers', 'matplotlib', 'statsmodels', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_aggregate_says_which_options_are_missing() -> None:
    done = program("aggregate", "--folder", "nowhere")
    assert done.returncode == 2 and "--settings, --results, --summary, --tables" in done.stderr
    done = program(
        "aggregate",
        "--settings",
        json.dumps({"study": "x", "nonsense": 1}),
        "--folder",
        "x",
        "--results",
        "x",
        "--summary",
        "x",
        "--tables",
        "x",
    )
    assert done.returncode == 78 and "nonsense" in done.stderr
