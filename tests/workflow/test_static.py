"""Rules of the house that a text can break."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = {path.name: path.read_text() for path in (ROOT / "rules").glob("*.smk")}


def blocks() -> dict[str, str]:
    """Every `rule name:` with its text (derived rules inherit, so they are left out)."""
    found = {}
    for text in RULES.values():
        for match in re.finditer(r"^rule (\w+):\n((?:    .*\n|\n)+)", text, re.M):
            found[match.group(1)] = match.group(2)
    return found


def test_the_default_profile_says_nothing_but_what_is_printed() -> None:
    """Snakemake reads it whatever other profile is named: anything else in it would change every user's run."""
    assert set(yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())) == {"quiet"}
    assert {path.name for path in (ROOT / "profiles").iterdir() if path.is_dir()} >= {"local", "slurm"}


def test_every_rule_has_its_directives_in_one_order() -> None:
    order = [
        "input",
        "output",
        "log",
        "benchmark",
        "wildcard_constraints",
        "conda",
        "threads",
        "resources",
        "params",
        "shell",
    ]
    assert len(blocks()) >= 12
    for name, text in blocks().items():
        directives = re.findall(r"^    (\w+):", text, re.M)
        assert text.lstrip().startswith('"""'), f"rule {name} has no docstring"
        assert directives == sorted(directives, key=order.index), f"rule {name}: {directives}"
        assert {"output", "log", "conda", "shell"} <= set(directives), name


def test_every_shell_ends_in_exec_of_one_program() -> None:
    """A pipe or a further command would let the shell die of a signal while the program still saves."""
    for name, text in blocks().items():
        shell = text[text.index("    shell:") :]
        assert re.search(r"""["']exec (env \S+ \S+ )?python scripts/\w+\.py""", shell), name
        assert "|" not in shell and ";" not in shell and shell.rstrip().rstrip("\"'").endswith(">> {log} 2>&1"), name


def test_no_rule_declares_checkpoints_or_retries() -> None:
    """Snakemake deletes what is declared, and a rule's own retries also act inside each job."""
    for name, text in blocks().items():
        output = re.search(r"^    output:\n((?:        .*\n)+)", text, re.M)
        assert output and "state" not in output.group(1) and "checkpoint" not in output.group(1), name
    for text in RULES.values():
        assert not re.search(r"^\s*retries:", text, re.M)


def test_no_program_shadows_a_standard_module() -> None:
    import sys

    names = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert names and not names & set(sys.stdlib_module_names)


def test_conda_environment_holds_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "envs/isotone.yaml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    locked = (ROOT / "requirements.lock").read_text().split()
    assert sorted(pip) == sorted(locked)


def test_the_lock_pins_everything() -> None:
    lines = (ROOT / "requirements.lock").read_text().split("\n")[:-1]
    assert "torch==2.13.0" in lines and all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line) for line in lines)
    wanted = re.findall(r"^[A-Za-z0-9_-]+", (ROOT / "requirements.in").read_text(), re.M)
    locked = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert {name.lower().replace("_", "-") for name in wanted} <= locked


def test_the_project_holds_no_path_of_one_machine() -> None:
    # Spelled in pieces, so that this file does not hold what it looks for.
    forbidden = ["/" + "work/", "/" + "root/", "/" + "tmp/plan"]
    for folder in ("scripts", "rules", "config", "profiles", "docs", "envs", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in {".py", ".md", ".yaml", ".smk", ".sh", ".lock"}:
                text = path.read_text()
                assert not [word for word in forbidden if word in text], path
