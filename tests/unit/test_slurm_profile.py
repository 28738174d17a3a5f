"""What the Slurm profile decides by itself, without a Slurm."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
from pathlib import Path

import pytest
import yaml
from isotone import errors
from isotone.errors import ConfigurationError
from isotone.training.supervision.supervisor import torchrun

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "profiles/slurm"


@pytest.fixture
def plugin() -> dict:
    return runpy.run_path(str(PROFILE / "plugin.py"))


def test_the_environment_is_compared_with_the_lock(
    plugin: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ISOTONE_ENVIRONMENT_CHECK", raising=False)
    lock = tmp_path / "lock"
    lock.write_text(re.sub(r"^numpy==.*$", "numpy==0.0.1", (ROOT / "requirements.lock").read_text(), flags=re.M))
    assert plugin["environment_fault"]() is None
    fault = plugin["environment_fault"](lock)
    assert "numpy is " in fault and "the lock says 0.0.1" in fault and "make env" in fault and "torch" not in fault
    monkeypatch.setenv("ISOTONE_ENVIRONMENT_CHECK", "off")
    assert plugin["environment_fault"](lock) is None


@pytest.mark.parametrize(
    ("last", "final"),
    [
        ("isotone: refused (78): no such scope", True),
        ("isotone: halted: HALT stands", True),
        ("isotone: failed (70): diverged", True),
        ("isotone: failed (74): disk", False),
        ("isotone: failed (1): a fault", False),
        ("isotone: interrupted (75), will resume when run again", False),
        ("isotone: done", False),
    ],
)
def test_only_ends_that_repeat_are_not_tried_again(plugin: dict, tmp_path: Path, last: str, final: bool) -> None:
    log = tmp_path / "1.log"
    log.write_text(f"isotone: refused (78): an earlier start\nWorkflowError:\n{last}\nslurmstepd: something\n")
    assert plugin["refusal"](log) == (last if final else None)
    assert plugin["refusal"](tmp_path / "absent") is None


def test_an_account_is_asked_for_once_and_a_wrong_one_every_time(plugin: dict) -> None:
    asked = []

    def check(account: str, logger: object) -> str:
        asked.append(account)
        if account == "wrong":
            raise ValueError(account)
        return account.upper()

    remembered = plugin["remember"](check)
    assert [remembered("lab", None), remembered("lab", None)] == ["LAB", "LAB"]
    for _ in range(2):
        with pytest.raises(ValueError):
            remembered("wrong", None)
    assert asked == ["lab", "wrong", "wrong"]


def test_the_last_line_names_every_kind_of_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "job.log"
    monkeypatch.setenv("ISOTONE_JOB_LOG", str(log))

    def end(error: Exception | int) -> int:
        def main() -> int:
            if isinstance(error, int):
                return error
            raise error

        with pytest.raises(SystemExit) as left:
            errors.run(main)
        return int(left.value.code or 0)

    assert [
        end(0),
        end(75),
        end(errors.Halted("HALT stands")),
        end(ConfigurationError("a\nb")),
        end(errors.Diverged("c")),
    ] == [
        0,
        75,
        75,
        78,
        70,
    ]
    assert log.read_text().splitlines() == [
        "isotone: done",
        "isotone: interrupted (75), will resume when run again",
        "isotone: halted: HALT stands",
        "isotone: refused (78): a",
        "isotone: failed (70): c",
    ]
    with pytest.raises(RuntimeError):
        errors.run(lambda: (_ for _ in ()).throw(RuntimeError("x")))
    assert log.read_text().splitlines()[-1].startswith("isotone: failed (1): RuntimeError: x")
    assert capsys.readouterr().err.count("isotone: ") == 6


def test_several_nodes_share_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("ISOTONE_NODE_GRES", "gpu:4")
    command = torchrun(8, 30, nodes=2)
    assert command[:5] == ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    assert "--gres=gpu:4" in command and "--nproc-per-node=4" in command[-2]
    assert "--standalone" in torchrun(8, 30) and "--standalone" not in command[-2]
    with pytest.raises(ConfigurationError, match="3 processes cannot be shared out equally to 2 nodes"):
        torchrun(3, 30, nodes=2)


def test_the_shipped_profiles_are_complete_and_consistent() -> None:
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    assert profile["executor"] == "slurm" and profile["slurm-requeue"] is True and profile["retries"] >= 10
    rules = set(
        re.findall(
            r"^\s*(?:rule|use rule \w+ as) (\w+)", "".join(p.read_text() for p in (ROOT / "rules").glob("*.smk")), re.M
        )
    )
    for file in [PROFILE / "config.yaml", *(PROFILE / "examples").glob("*.yaml")]:
        sections = yaml.safe_load(file.read_text())
        assert set(sections.get("set-resources", {})) <= rules, file
        for extra in re.findall(r"slurm_extra: (.*)", file.read_text()):
            assert "--signal=B:" not in extra and "USR1" not in extra and "--open-mode=append" in extra, file


def test_wrappers_hand_arguments_and_codes_through(tmp_path: Path) -> None:
    """Whatever stands behind them: the wrappers find it on PATH behind themselves."""
    for name, body in {
        "sacct": 'printf "7|CANCELLED by 0\\n8|RUNNING\\n"',
        "sbatch": 'echo "$#: $*"; exit 0',
        "srun": 'echo "$SLURM_CONF"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{PROFILE / 'bin'}{os.pathsep}{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def say(*command: str, **more: str) -> str:
        return subprocess.run(command, env=environment | more, capture_output=True, text=True, check=True).stdout

    assert say("sacct", "-X") == "7|CANCELLED\n8|RUNNING\n"
    assert say("sbatch", "--wrap", "a b") == "2: --wrap a b\n"
    assert say("srun", ISOTONE_SLURM_CONF="/site/slurm.conf") == "/site/slurm.conf\n"
    assert say("srun", ISOTONE_SLURM_CONF="/site/slurm.conf", SLURM_CONF="/other") == "/other\n"


def test_sbatch_waits_for_a_controller_and_not_for_a_refusal(tmp_path: Path) -> None:
    script = '#!/bin/sh\nif [ ! -e seen ]; then touch seen; echo "$WORDS" >&2; exit 1; fi\necho 42\n'
    (tmp_path / "sbatch").write_text(script)
    (tmp_path / "sbatch").chmod(0o755)
    environment = {"PATH": f"{PROFILE / 'bin'}{os.pathsep}{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def submit(words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "seen").unlink(missing_ok=True)
        call = environment | {"WORDS": f"sbatch: error: Batch job submission failed: {words}"}
        return subprocess.run(["sbatch", "x"], env=call, cwd=tmp_path, capture_output=True, text=True)

    away = submit("Unable to contact slurm controller (connect failure)")
    assert (away.returncode, away.stdout) == (0, "42\n") and "submission failed" not in away.stderr
    refused = submit("Invalid partition name specified")
    assert (refused.returncode, refused.stdout) == (1, "") and "Invalid partition" in refused.stderr
