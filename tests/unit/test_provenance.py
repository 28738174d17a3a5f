"""The digest of a program's code covers what it imports, and nothing that does not compute."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from isotone.provenance import PROGRAMS, code_digest, code_files, data_files

DIGESTED = [
    "control",
    "calibrate",
    "perplexity",
    "order_preservation",
    "attack_documents",
    "attack",
    "transfer",
    "aggregate",
    "figures",
    "report",
]


@pytest.mark.parametrize("program", DIGESTED)
def test_every_module_that_the_program_loads_is_in_its_digest(program: str) -> None:
    """Start the real program (--help) and look at what Python has loaded."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{program}.py', '--help']\n"
        "try: runpy.run_path(sys.argv[0] if False else PATH, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('\\n'.join(m.__file__ for n, m in list(sys.modules.items()) if n.split('.')[0] == 'isotone' and m.__file__), file=sys.stderr)"
    ).replace("PATH", repr(str(PROGRAMS / f"{program}.py")))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {Path(line).resolve() for line in done.stderr.splitlines() if line.endswith(".py")}
    assert loaded, done.stderr
    assert loaded <= set(code_files(program))


def digest_in(folder: Path) -> str:
    code = "from isotone.provenance import code_digest; print(code_digest('attack'))"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_comments_do_not_change_the_digest_and_code_does(tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    shutil.copytree(PROGRAMS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = digest_in(folder)
    assert before.strip() == code_digest("attack")  # another path, the same code
    path = folder / "isotone/records.py"
    path.write_text("# a remark\n" + path.read_text().replace('"""Files that are', '"""All files that are'))
    assert digest_in(folder) == before
    path.write_text(path.read_text() + "\nANOTHER = 1\n")
    assert digest_in(folder) != before


def test_a_template_is_part_of_the_report_and_not_of_the_attacks() -> None:
    assert "report.html" in {path.name for path in data_files("report")}
    assert not data_files("attack")


def test_a_marker_names_the_isotone_that_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version, commit, and whether the tree had changes; a copy without git is a version only."""
    from isotone import __version__, provenance
    from isotone.records import read_json, write_marker

    def written() -> dict:
        provenance.software.cache_clear()
        empty: dict = {"settings": {}, "inputs": {}, "outputs": {}, "result": {}}
        write_marker(tmp_path / "marker.json", "test", **empty)
        return read_json(tmp_path / "marker.json")["isotone"]

    def git(*words: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@e"]
        return subprocess.run(
            ["git", "-C", tmp_path / "copy", *who, *words], check=True, capture_output=True, text=True
        ).stdout

    (tmp_path / "copy/scripts").mkdir(parents=True)
    (tmp_path / "copy/scripts/train.py").write_text("first")
    monkeypatch.setattr(provenance, "PROGRAMS", (tmp_path / "copy/scripts").resolve())
    assert written() == {"version": __version__, "commit": None, "dirty": None}
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD").strip()
    (tmp_path / "copy/results").write_text("not tracked")
    assert written() == {"version": __version__, "commit": head, "dirty": False}
    (tmp_path / "copy/scripts/train.py").write_text("second")
    assert written() == {"version": __version__, "commit": head, "dirty": True}
    monkeypatch.setattr(provenance, "PROGRAMS", (tmp_path / "copy/scripts/inner").resolve())
    assert written()["commit"] is None  # installed below somebody else's checkout
    provenance.software.cache_clear()
