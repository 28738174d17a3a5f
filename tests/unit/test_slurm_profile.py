"""What the Slurm profile decides by itself, without a Slurm."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from isotone import errors
from isotone.attacks.registry import SPECS
from isotone.cluster import executor, fit, submission
from isotone.errors import ConfigurationError
from isotone.training.supervision.supervisor import torchrun

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "profiles/slurm"


def test_the_environment_is_compared_with_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ISOTONE_ENVIRONMENT_CHECK", raising=False)
    lock = tmp_path / "lock"
    lock.write_text(re.sub(r"^numpy==.*$", "numpy==0.0.1", (ROOT / "requirements.lock").read_text(), flags=re.M))
    assert fit.environment_fault() is None
    fault = fit.environment_fault(lock)
    assert "numpy is " in fault and "the lock says 0.0.1" in fault and "make env" in fault and "torch" not in fault
    monkeypatch.setenv("ISOTONE_ENVIRONMENT_CHECK", "off")
    assert fit.environment_fault(lock) is None


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
def test_only_ends_that_repeat_are_not_tried_again(tmp_path: Path, last: str, final: bool) -> None:
    log = tmp_path / "1.log"
    log.write_text(f"isotone: refused (78): an earlier start\nWorkflowError:\n{last}\nslurmstepd: something\n")
    assert executor.refusal(log) == (last if final else None)
    assert executor.refusal(tmp_path / "absent") is None


def test_an_account_is_asked_for_once_and_a_wrong_one_every_time() -> None:
    asked = []

    def check(account: str, logger: object) -> str:
        asked.append(account)
        if account == "wrong":
            raise ValueError(account)
        return account.upper()

    remembered = executor.remember(check)
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
    rules |= {f"attack_{name}" for name in SPECS} | {"transfer", "calibrate", "perplexity"}  # made in a loop
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

    assert say("sacct", "-X") == "7|CANCELLED by 0\n8|RUNNING\n"
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


POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.fixture
def sbatch(tmp_path: Path):
    """bin/sbatch in front of one that fails once with $WORDS on stderr, then prints $OUT and $NOTE."""
    real = tmp_path / "sbatch"
    real.write_text(
        'if [ -n "$WORDS" ] && [ ! -e seen ]; then touch seen; printf "%b\\n" "$WORDS" >&2; exit 1; fi\n'
        'printf "%b\\n" "$OUT"; [ -z "$NOTE" ] || echo "$NOTE" >&2\n'
    )
    real.write_text(f"#!/usr/bin/env bash\n{real.read_text()}")
    real.chmod(0o755)
    environment = {"PATH": f"{PROFILE / 'bin'}{os.pathsep}{tmp_path}{os.pathsep}{os.environ['PATH']}", "OUT": "42"}

    def call(*options: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = ["sbatch", *options]
        return subprocess.run(command, env=environment | more, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return call


def test_a_full_queue_is_waited_for_and_told(sbatch, tmp_path: Path) -> None:
    """As Slurm 22.05 and 24.11 say it, with AccountingStorageEnforce=limits and MaxSubmitJobs."""
    words = f"sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: {POLICY}"
    done = sbatch("--parsable", WORDS=words, ISOTONE_SBATCH_SAYS=str(tmp_path / "says"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")
    assert "the queue holds as many of your jobs as it may (AssocMaxSubmitJobLimit)" in (tmp_path / "says").read_text()


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        (["--parsable"], "QOSMaxWallDurationPerJobLimit"),  # no waiting makes a job shorter
        (["--parsable", "--test-only"], "AssocMaxSubmitJobLimit"),  # a question is answered at once
    ],
)
def test_the_same_sentence_with_another_limit_is_a_refusal(sbatch, options: list[str], limit: str) -> None:
    done = sbatch(*options, WORDS=f"sbatch: error: {limit}\nallocation failure: {POLICY}")
    assert done.returncode == 1 and limit in done.stderr


@pytest.mark.parametrize("out", ["4000", "Checking your balance: 1,234 core hours left\nJob accepted\n4000"])
def test_only_the_number_of_a_job_is_printed(sbatch, out: str) -> None:
    note = "sbatch: note: an earlier submission failed for 3 users; the queue is fine now"
    done = sbatch("--parsable", OUT=out, NOTE=note)
    assert done.stdout == "4000\n" and done.returncode == 0
    assert "earlier submission" in done.stderr and "submission failed" not in done.stderr


def test_warnings_of_sacct_are_no_answer(tmp_path: Path) -> None:
    """Seen on stdout where a site wraps sacct: as a node list they went into the next sbatch's --exclude."""
    (tmp_path / "sacct").write_text(
        "#!/bin/sh\necho 'sacct: warning: the database is slow'\necho 'slurm_load: x'\necho '7|RUNNING'\necho None assigned\n"
    )
    (tmp_path / "sacct").chmod(0o755)
    environment = {"PATH": f"{PROFILE / 'bin'}{os.pathsep}{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sacct"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "7|RUNNING\n\n"


def test_orphans_are_ones_own_jobs_for_the_same_result_in_the_same_folder(tmp_path: Path) -> None:
    """Two studies in one checkout, two clones, two users on one results folder."""
    train, wanted = "rule_train_baseline_wildcards_{}_baseline_42", {"rule_train_baseline_wildcards_mine_baseline_42"}
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    own = [
        f"1|RUNNING|{tmp_path}|{train.format('mine')}",
        f"2|PENDING|{tmp_path}|{train.format('other')}",
        f"3|RUNNING|/elsewhere|{train.format('mine')}",
        f"4|PENDING|{link}|{train.format('mine')}",
        f"5|RUNNING|{tmp_path}|a comment | of somebody",
    ]
    found = submission.parse_orphans("\n".join(own), tmp_path, wanted)
    assert [(job.number, job.owner) for job in found] == [("1", ""), ("4", "")]
    everybody = submission.parse_orphans("\n".join(f"ann|{line}" for line in own), tmp_path, wanted)
    assert [(job.number, job.owner) for job in everybody] == [("1", "ann"), ("4", "ann")]


class Driver:
    """What `attend` and `reconciled` need of an executor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from collections import Counter

        self.told: list[str] = []
        self.ran: list[list[str]] = []
        monkeypatch.setattr(executor, "said", lambda command: self.ran.append(command) or "")
        made = executor.mended(object, None)
        self.it = made.__new__(made)
        self.it._released, self.it._told, self.it.logger = Counter(), set(), self
        self.it._submitted_job_clusters, self.it.run_uuid, self.it.asked = set(), "uuid", ["7"]

    def warning(self, text: str) -> None:
        self.told.append(text)


def test_a_job_that_a_node_could_not_start_is_released_three_times_then_submitted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver(monkeypatch)
    for _ in range(4):
        driver.it.attend([("7", "PENDING", "launch failed requeued held"), ("8", "RUNNING", "None")])
    assert driver.ran == [["scontrol", "release", "7"]] * 3 + [["scancel", "7"]]
    assert "released, for the 1. time of 3" in driver.told[0] and "cancelled" in driver.told[3]


def test_what_only_a_person_may_release_is_told_once_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch)
    for _ in range(3):
        driver.it.attend([("7", "PENDING", "JobHeldUser"), ("8", "PENDING", "JobHeldAdmin")])
    assert not driver.ran and len(driver.told) == 2
    assert "scontrol release 7" in driver.told[0] and "administrator" in driver.told[1]


def test_accounting_and_controller_are_asked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    driver = Driver(monkeypatch)
    accounting: dict[str, str] | None = {"7": "RUNNING", "9": "COMPLETED"}

    async def query(command: str, logger: object) -> tuple[dict[str, str] | None, float | None]:
        return accounting, None if accounting is None else 0.1

    ask = executor.reconciled(query, driver.it)
    monkeypatch.setattr(executor, "controller_jobs", lambda run: [("7", "COMPLETED", "None")])
    assert asyncio.run(ask("", driver)) == ({"7": "COMPLETED", "9": "COMPLETED"}, 0.1)
    accounting = None
    assert asyncio.run(ask("", driver)) == ({"7": "COMPLETED"}, 0.0)  # accounting is away, the controller is not
    monkeypatch.setattr(executor, "controller_jobs", lambda run: None)
    assert asyncio.run(ask("", driver)) == (None, None)
    accounting = {"7": "PREEMPTED"}
    monkeypatch.setattr(executor, "controller_jobs", lambda run: [])
    assert [asyncio.run(ask("", driver))[0]["7"] for _ in range(2)] == ["RUNNING", "FAILED"]
    assert driver.told == [
        "Slurm job 7 is PREEMPTED for accounting and unknown for the controller, and nothing brings it back: taken as failed."
    ]
