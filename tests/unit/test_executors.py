"""The same study by other means: the local executor, PBS through cluster-generic, a container."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PBS = ROOT / "profiles/pbs"


def snakemake(folder: Path, *options: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a folder; what stands in ``path`` comes first on PATH."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    if path is not None:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-m", "snakemake", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


LOCAL = """
from isotone.cluster.local import mend_local

if workflow.is_main_process:
    mend_local()

rule all:
    input: "killed", "failed"

rule killed:
    output: "killed"
    shell: "echo >> killed-starts; [ $(wc -l < killed-starts) -ge 2 ] || kill -9 $$; touch {output}"

rule failed:
    output: "failed"
    shell: "echo >> failed-starts; exit 3"
"""


@pytest.mark.slow
def test_the_local_profile_tries_a_killed_job_once_more_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(LOCAL)
    done = snakemake(tmp_path, "--profile", str(ROOT / "profiles/local"))
    assert done.returncode == 1 and (tmp_path / "killed").exists(), done.stderr
    assert len((tmp_path / "killed-starts").read_text().splitlines()) == 2
    assert len((tmp_path / "failed-starts").read_text().splitlines()) == 1
    assert "was killed, most likely for memory" in done.stderr


def test_the_shipped_workflow_uses_that_executor() -> None:
    assert "local.mend_local()" in (ROOT / "rules/common.smk").read_text()
    assert yaml.safe_load((ROOT / "profiles/local/config.yaml").read_text())["retries"] == 1


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def pbs(tmp_path: Path) -> Path:
    """A pretended PBS: qsub runs the job here and now, qstat prints records as OpenPBS does."""
    place = tmp_path / "bin"
    place.mkdir()
    write(
        place / "qsub",
        f"""#!/usr/bin/env bash
echo "$@" >> {place}/asked
n=$(wc -l < {place}/asked)
for word in "$@"; do case $word in ISOTONE_JOB_SECONDS=*) export "$word" ;; esac; done
(PBS_O_WORKDIR=$PWD PBS_JOBID=$n.head bash "${{@: -1}}" > {place}/$n.log 2>&1 < /dev/null; echo $? > {place}/$n.code) > /dev/null 2>&1 &
echo $n.head
""",
    )
    write(
        place / "qstat",
        f"""#!/usr/bin/env bash
number=${{@: -1}}
[ ! -e {place}/away ] || {{ rm {place}/away; echo "qstat: cannot connect to server head (errno=111)" >&2; exit 255; }}
code=$(cat {place}/${{number%.head}}.code 2>/dev/null) || {{ printf 'Job Id: %s\\n    job_state = R\\n' $number; exit 0; }}
printf 'Job Id: %s\\n    job_state = F\\n    Exit_status = %s\\n' $number $code
""",
    )
    return place


@pytest.mark.slow
def test_a_workflow_runs_through_the_pbs_profile(tmp_path: Path, pbs: Path) -> None:
    """Submission, resources, the environment of a job, success, failure and a server that is away; not PBS itself."""
    (tmp_path / "Snakefile").write_text(
        'rule works:\n    output: "{name}.out"\n    threads: 2\n'
        '    shell: "echo $ISOTONE_JOB_END_TIME > {output}"\n'
        'rule fails:\n    output: "wrong"\n    shell: "echo >> starts; exit 3"\n'
    )
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/pbs").symlink_to(PBS)
    quick = ["--seconds-between-status-checks", "1", "--latency-wait", "5", "--retries", "1"]
    (pbs / "away").touch()
    done = snakemake(tmp_path, "--profile", "profiles/pbs", *quick, "--", "a.out", "wrong", path=pbs)
    assert done.returncode == 1 and (tmp_path / "a.out").exists(), done.stderr
    assert len((tmp_path / "starts").read_text().splitlines()) == 2
    asked = next(line for line in (pbs / "asked").read_text().splitlines() if "-N isotone-works" in line)
    for words in ("-q workq", "-l select=1:ncpus=2:mem=4000mb", "-l walltime=3600", "-r y"):
        assert words in asked, asked
    assert (tmp_path / "a.out").read_text().strip().isdigit()


@pytest.mark.parametrize(
    ("said", "code", "status"),
    [
        ("Job Id: 7.head\n    Job_Name = x\n    job_state = Q\n", 0, "running"),
        ("Job Id: 7.head\n    job_state = H\n", 0, "running"),
        ("Job Id: 7.head\n    job_state = F\n    Exit_status = 0\n", 0, "success"),
        ("Job Id: 7.head\n    job_state = F\n    Exit_status = 271\n", 0, "failed"),  # ended by qdel
        ("Job Id: 7.head\n    job_state = F\n    comment = Not Running\n", 0, "failed"),  # deleted before it began
        ("Job Id: 7.head\n    job_state = C\n    exit_status = 0\n", 0, "success"),  # Torque
        ("qstat: Unknown Job Id 7.head\n", 153, "failed"),
        ("qstat: cannot connect to server head (errno=111)\n", 255, "running"),
    ],
)
def test_what_qstat_says_of_a_job(tmp_path: Path, said: str, code: int, status: str) -> None:
    (tmp_path / "said").write_text(said)
    write(tmp_path / "qstat", f"#!/bin/sh\ncat {tmp_path}/said {'>&2' if code else ''}\nexit {code}\n")
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([PBS / "status", "7.head"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{status}\n"


@pytest.mark.slow
def test_a_study_is_planned_with_the_pbs_profile() -> None:
    done = snakemake(ROOT, "-n", "--quiet", "all", "--profile", "profiles/pbs", "--configfile", "config/smoke.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_images_hold_the_lock_and_a_python_that_is_supported() -> None:
    """Linted, not built: no base image can be fetched in the tests."""
    recipe, dockerfile = ((ROOT / "envs" / name).read_text() for name in ("isotone.def", "Dockerfile"))
    install = "pip install --no-cache-dir --disable-pip-version-check -r /opt/isotone/requirements.lock"
    base = re.search(r"^From: (python:3\.(\d+)-\S+)$", recipe, re.M)
    assert base is not None and 11 <= int(base[2]) <= 13 and f"FROM {base[1]}\n" in dockerfile
    sections = re.split(r"^%(\w+)\n", recipe, flags=re.M)
    parts = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert set(parts) == {"files", "post", "environment", "test", "labels"}
    source, target = parts["files"].split()
    assert (ROOT / source).is_file() and f"COPY {source} {target}\n" in dockerfile
    assert install in parts["post"] and f"RUN {install}\n" in dockerfile
    known = ("FROM", "LABEL", "ENV", "COPY", "RUN")
    lines = [line for line in dockerfile.splitlines() if line and not line.startswith("#")]
    assert all(line.split()[0] in known for line in lines)


@pytest.mark.slow
def test_every_job_runs_in_the_container_that_the_workflow_names(tmp_path: Path) -> None:
    """`--sdm apptainer`, with a pretended apptainer that notes its call and runs the command as it is."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    write(
        bin_folder / "apptainer",
        f"""#!/usr/bin/env bash
[ "$1" != --version ] || {{ echo "apptainer version 1.3.4"; exit 0; }}
printf '%s\\n' "$*" | head -c 300 >> {tmp_path}/calls
while [ $# -gt 0 ] && [[ $1 != *.sif ]]; do shift; done
shift
exec "$@"
""",
    )
    for part in ("Snakefile", "rules", "scripts", "config", "envs", "report", "profiles", "requirements.lock"):
        (tmp_path / part).symlink_to(ROOT / part)
    target = "results/smoke/data/corpus.json"
    options = ["--sdm", "apptainer", "--cores", "1", "--configfile", "config/smoke.yaml", "--", target]
    done = snakemake(tmp_path, *options, path=bin_folder)
    assert done.returncode == 0 and (tmp_path / target).exists(), done.stdout + done.stderr
    assert "envs/isotone.sif" in (tmp_path / "calls").read_text()
