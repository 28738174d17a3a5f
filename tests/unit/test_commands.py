"""`python -m isotone`: what a study's folder says about itself."""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from isotone.cluster import queue as slurm_queue
from isotone.commands import (
    checkpoints,
    doctor,
    history,
    queued,
    resume,
    status,
    survey,
)
from isotone.commands import state as state_command
from isotone.commands.history import folder_size
from isotone.commands.studies import known_studies, study_of_results
from isotone.errors import ConfigurationError
from isotone.planning import estimate
from isotone.planning.checks import disk as checks_disk
from isotone.planning.checks import machine as checks
from isotone.planning.checks.slurm import jobs_of, submission
from isotone.records import file_digest
from isotone.schema import as_mapping
from isotone.studies.reading import study_of
from isotone.studies.study import read_study

RAW = {
    "study": "demo",
    "seeds": [1, 2],
    "arms": {"baseline": {}, "both": {"constraint": {"scope": "mlp_both", "init": "abs"}}},
    "attacks": {"run": ["hotflip"]},
    "controls": {"kinds": ["tempered"], "attacks": []},
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", "/dev/null")
    monkeypatch.delenv("ISOTONE_STATE", raising=False)
    folder = tmp_path / "results" / "demo"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(as_mapping(read_study(RAW, "demo"))))
    return folder


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def state(study, name, age=0.0, **files):
    folder = study / "state" / name.replace("/", "-")
    beat = {"name": name, "time": time.time() - age, "step": 30, "steps": 90, "loss": 3.5, "tokens_per_second": 1234.0}
    put(folder / "heartbeat.json", beat | {"eta_seconds": 60.0, "epoch": 0.5})
    put(folder / "history.csv", "step,loss,seconds\n" + "".join(f"{i},{9 - i / 10},{i}\n" for i in range(30)) + "30,5")
    for file, value in files.items():
        put(folder / f"{file}.json", value)
    return folder


def runs(study):
    found = survey.survey(*study_of_results(None))
    return found, {run.name: run for run in found.runs}


def test_a_fresh_study_waits_for_everything(study):
    found, all_runs = runs(study)
    assert set(all_runs) == {
        "pretrain",
        *(f"{arm}/seed-{seed}" for arm in ("baseline", "both", "both~tempered") for seed in (1, 2)),
    }
    assert {run.state for run in all_runs.values()} == {"waiting"}
    by_stage = {entry["stage"]: entry for entry in found.stages}
    assert by_stage["tokenize"] == {"stage": "tokenize", "total": 5, "waiting": 5}
    assert by_stage["attack hotflip"]["total"] == 4 and not found.failed


def test_every_state_of_a_run_is_told_apart(study):
    state(study, "baseline/seed-1")
    state(study, "baseline/seed-2", age=500)
    state(study, "both/seed-1", outcome={"code": 75, "time": time.time() + 1, "message": "epoch 1 of 3 done"})
    state(study, "both/seed-2", refused={"code": 70, "message": "diverged at step 12\nmore"})
    put(
        study / "runs/both~tempered/seed-1/train.json",
        {"result": {"steps": 0, "final_loss": 2.0}, "cost": {"flags": ["x: y"]}},
    )
    put(study / "logs/control/both~tempered-seed-2.log", "step 1\nRuntimeError: no root found\n")
    found, all_runs = runs(study)
    states = {name: run.state for name, run in all_runs.items()}
    assert states == {
        "pretrain": "waiting",
        "baseline/seed-1": "running",
        "baseline/seed-2": "silent",
        "both/seed-1": "paused",
        "both/seed-2": "failed",
        "both~tempered/seed-1": "done",
        "both~tempered/seed-2": "failed",
    }
    assert all_runs["baseline/seed-1"].eta_seconds == 60 and all_runs["baseline/seed-2"].eta_seconds is None
    assert all_runs["baseline/seed-1"].spark == "██▇▇▆▆▅▅▄▄▃▃▂▂▁▁"
    assert all_runs["both~tempered/seed-1"].flags == ["x: y"]
    errors = {entry["what"]: entry["error"] for entry in found.failed}
    assert errors["train both/seed-2"] == "diverged at step 12"
    assert errors["train both~tempered/seed-2"] == "RuntimeError: no root found"
    assert found.state_bytes > 0


def test_an_earlier_end_is_forgotten_once_the_run_goes_on(study):
    folder = state(study, "baseline/seed-1", age=30, outcome={"code": 75, "time": time.time() - 20, "message": "x"})
    assert runs(study)[1]["baseline/seed-1"].state == "paused"
    put(folder / "outcome.json", {"code": 75, "time": time.time() - 40, "message": "x"})
    assert runs(study)[1]["baseline/seed-1"].state == "running"


def test_a_step_of_many_minutes_is_not_silence(study):
    folder = state(study, "baseline/seed-1", age=500)
    assert runs(study)[1]["baseline/seed-1"].state == "silent"
    put(folder / "lock", "")  # a lease that is renewed between the steps
    alive = runs(study)[1]["baseline/seed-1"]
    assert alive.state == "running" and alive.heartbeat_age < 60


def test_a_crash_after_the_last_heartbeat_is_a_failure(study):
    state(study, "baseline/seed-1", age=500)
    log = put(
        study / "logs/train/baseline-seed-1.log", "Traceback\nSafetensorError: invalid header\nisotone: failed (1)\n"
    )
    found, all_runs = runs(study)
    assert all_runs["baseline/seed-1"].state == "failed"
    assert found.failed[0]["error"] == "SafetensorError: invalid header" and found.failed[0]["log"] == str(
        log.relative_to(study.parents[1])
    )
    state(study, "baseline/seed-1")  # and it goes on
    os.utime(log, (time.time() - 9, time.time() - 9))
    assert runs(study)[1]["baseline/seed-1"].state == "running"


def test_a_killed_trainer_is_told_at_once_and_by_its_own_log(study):
    """As long as nobody looks for the process, a run that was killed a moment ago seems to run."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder = state(study, "baseline/seed-1")
    began = psutil.Process(process.pid).create_time()
    facts = {"time": time.time(), "host": socket.gethostname(), "pid": process.pid, "began": began, "lease": 30.0}
    put(folder / "start.json", facts | {"namespace": os.readlink("/proc/self/ns/pid"), "log": "its-own.log"})
    assert runs(study)[1]["baseline/seed-1"].state == "running"
    process.kill()
    process.wait()
    found, all_runs = runs(study)
    assert all_runs["baseline/seed-1"].state == "killed" and all_runs["baseline/seed-1"].eta_seconds is None
    assert found.failed[0]["log"] == "its-own.log" and "was killed" in found.failed[0]["error"]


def test_a_run_that_a_halt_holds_is_no_failure(study):
    state(study, "both/seed-1", outcome={"code": 75, "time": time.time() + 1, "message": "stopped at step 3 (HALT)"})
    put(study / "logs/train/baseline-seed-1.log", "HALT exists, so this run does not start.\nisotone: halted: HALT\n")
    assert runs(study)[1]["both/seed-1"].state == "paused"
    put(study / "HALT", "")
    found, all_runs = runs(study)
    assert (all_runs["both/seed-1"].state, all_runs["baseline/seed-1"].state) == ("halted", "halted")
    assert not found.failed


def test_abandoned_state_is_listed_and_removed_and_a_live_one_is_not(study, capsys):
    demo = study_of_results("demo")[0]
    wanted = as_mapping(demo.train_job("baseline", 1))
    needed = state(study, "baseline/seed-1", age=500)
    put(needed / "checkpoints.g000001/step-000000010/progress.json", {"identity": {"settings": wanted}})
    old = put(study / "state/old/heartbeat.json", {"name": "baseline/seed-1", "time": 1.0}).parent
    put(old / "checkpoints.g000001/step-000000010/progress.json", {"identity": {"settings": wanted | {"seed": 9}}})
    live = put(study / "state/live/heartbeat.json", {"name": "baseline/seed-1", "time": time.time()}).parent
    put(live / "lock", "")
    put(live / "checkpoints.g000001/step-000000010/progress.json", {"identity": {"settings": wanted | {"seed": 8}}})
    verdicts = {entry.folder.name: entry.verdict for entry in state_command.list_states(demo, study)}
    assert verdicts == {"baseline-seed-1": "needed", "old": "abandoned", "live": "in use"}
    ask = argparse.Namespace(study=None, list=False, clean=True, yes=False)
    assert state_command.run(ask) == 1 and old.exists()  # nobody can be asked
    ask.yes = True
    assert state_command.run(ask) == 0
    assert not old.exists() and needed.exists() and live.exists()
    assert "removed 1 folders" in capsys.readouterr().out


def test_stages_that_failed_name_their_log(study):
    put(study / "data/corpus.json", {})
    put(study / "logs/setup.log", "model: it holds its weights only as pickles, which cannot be read\n")
    put(study / "timings/corpus.tsv", "s\th:m:s\n12.5\t0:00:12\n")
    found, _ = runs(study)
    by_stage = {entry["stage"]: entry for entry in found.stages}
    assert by_stage["corpus"]["done"] == 1 and by_stage["setup"]["failed"] == 1
    assert found.failed[0]["log"].endswith("logs/setup.log") and "pickles" in found.failed[0]["error"]
    assert found.seconds == 12.5


def test_status_speaks_to_people_and_to_scripts_without_torch(study, root):
    state(study, "baseline/seed-1")
    code = "import sys\nsys.argv = ['isotone', 'status', '--json']\nfrom isotone.__main__ import main\n"
    code += "result = main()\nprint('torch' in sys.modules, file=sys.stderr)\nsys.exit(result or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=study.parents[1])
    assert done.returncode == 0 and done.stderr.strip().endswith("False"), done.stderr
    found = json.loads(done.stdout)
    assert next(run for run in found["runs"] if run["name"] == "baseline/seed-1")["step"] == 30
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(status.render(runs(study)[0]))
    text = console.export_text()
    assert "baseline/seed-1" in text and "30/90" in text and "1.2k" in text and "0 of 5" in text


def test_a_command_says_its_paragraph_once(tmp_path, root):
    done = subprocess.run(
        [sys.executable, "-m", "isotone", "status"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(root / "scripts")},
    )
    assert done.returncode == 78 and done.stderr.count("No study has been started here") == 1


def test_jobs_of_the_queue_are_found_by_rule_and_wildcards(tmp_path):
    text = (
        f"11|RUNNING|None|{tmp_path}|rule_train_monotonic_wildcards_demo_mlp_both_1\n"
        f"12|PENDING|Priority|{tmp_path}|rule_attack_hotflip_wildcards_demo_baseline_2\n"
        f"13|RUNNING|None|{tmp_path}|rule_train_monotonic_wildcards_demo_mlp_both_12\n"
        "14|RUNNING|None|/elsewhere|rule_setup\nbroken\n"
    )
    jobs = slurm_queue.parse_queue(text, str(tmp_path))
    assert [job.number for job in jobs] == ["11", "12", "13"]
    assert queued.job_of_run(jobs, "demo", "mlp_both", 1).number == "11"
    assert queued.job_of_run(jobs, "demo", "mlp_both", 2) is None
    assert queued.job_of_run(jobs, "demo", "both", 1) is None
    log = Path("logs/attacks/hotflip/baseline-seed-2.log")
    assert queued.job_of_step(jobs, "demo", "attack hotflip", "baseline-seed-2", log).number == "12"
    assert queued.job_of_step(jobs, "demo", "transfer hotflip", "baseline-seed-2", log) is None


def test_studies_whose_names_begin_alike_share_no_jobs(tmp_path):
    """Wherever one's name ends: the plugin joins rule and wildcards by underscores."""
    names = ["a", "a-b", "a_b", "a_b_c"]
    for name in names:
        (tmp_path / name).mkdir()
    comment = "rule_train_baseline_wildcards_{}_baseline_1"
    jobs = [slurm_queue.Job(name, "RUNNING", comment.format(name)) for name in names]
    for name in names:
        mine = queued.jobs_of(name, tmp_path / name, jobs)
        assert [job.number for job in mine] == [name]
        assert queued.job_of_run(mine, name, "baseline", 1).number == name


def test_a_job_that_only_a_person_can_release_is_told_with_its_command(study):
    """And another study's job in the same checkout is not taken for one of this study's."""
    comment = "rule_train_baseline_wildcards_{}_baseline_1"
    mine = slurm_queue.Job("11", "PENDING", comment.format("demo"), "JobHeldUser")
    other = slurm_queue.Job("12", "PENDING", comment.format("demo-2"), "JobHeldAdmin")
    found = survey.survey(*study_of_results(None), jobs=[mine, other])
    run = next(run for run in found.runs if run.name == "baseline/seed-1")
    assert run.queue == "held 11 (JobHeldUser)" and found.queue == {"pending": 1}
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(status.render(found))
    assert "Slurm job 11 waits (JobHeldUser)" in console.export_text() and len(found.held) == 1
    assert "scontrol release 11" in found.held[0]


def test_the_doctor_tells_of_held_jobs_and_full_queues(tmp_path, monkeypatch):
    from isotone.planning.checks import slurm

    answer = f"7|PENDING|launch failed requeued held|{tmp_path}|rule_setup_wildcards_demo"
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho '{answer}'\n")
    full = "sbatch: error: AssocMaxSubmitJobLimit\nallocation failure: Job violates accounting/QOS policy"
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\necho '{full}' >&2; exit 1\n")
    for name in ("squeue", "sbatch"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.chdir(tmp_path)
    assert slurm.held()[0] == "yellow" and "scontrol release 7" in slurm.held()[1]
    assert slurm.accepted("setup", {})[0] == "yellow" and "AssocMaxSubmitJob" in slurm.accepted("setup", {})[1]


def test_studies_are_found_by_name(study):
    assert known_studies() == ["demo"]
    with pytest.raises(ConfigurationError, match='Did you mean "demo"'):
        study_of_results("dem")
    with pytest.raises(ConfigurationError, match=r"absent\.yaml cannot be read"):
        study_of(["absent.yaml"])


def test_resume_removes_every_halt(study, capsys):
    put(study / "HALT", "")
    put(state(study, "both/seed-1") / "HALT", "")
    assert runs(study)[0].halted
    parser_arguments = type("A", (), {"study": None})()
    resume.run(parser_arguments)
    assert not list(study.rglob("HALT")) and capsys.readouterr().out.count("removed") == 2
    resume.run(parser_arguments)
    assert "no HALT file" in capsys.readouterr().out


def checkpoint(study, step, name="both/seed-1"):
    folder = state(study, name) / "checkpoints.g000001" / f"step-{step:09d}"
    weights = put(folder / "weights.safetensors", "weights" * step)
    put(folder / "progress.json", {"best": {"step": 20, "loss": 1.0}})
    entry = {"size": weights.stat().st_size, "sha256": file_digest(weights)}
    put(folder / "manifest.json", {"schema": "checkpoint/1", "step": step, "files": {"weights.safetensors": entry}})
    return folder


def test_checkpoints_are_listed_and_damage_is_found(study):
    folders = [checkpoint(study, step) for step in (10, 20, 30)]
    found = list(checkpoints.list_checkpoints(study / "state"))
    assert [(entry.run, entry.step, entry.best) for entry in found] == [
        ("both/seed-1", 10, False),
        ("both/seed-1", 20, True),
        ("both/seed-1", 30, False),
    ]
    assert [checkpoints.verify(folder) for folder in folders] == ["whole"] * 3
    data = bytearray((folders[2] / "weights.safetensors").read_bytes())
    data[5] ^= 1
    (folders[2] / "weights.safetensors").write_bytes(data)
    assert checkpoints.verify(folders[2]) == "damaged: weights.safetensors is not what was written"
    assert checkpoints._choose(found).step == 20  # the newest that is whole
    (folders[1] / "manifest.json").write_text("{")
    assert checkpoints.verify(folders[1]).startswith(f"damaged: {folders[1]}/manifest.json is damaged")


def test_sparkline_and_numbers():
    assert history.sparkline([1, 2, 3, None], 3) == "▁▅█"  # a half rounds to even: 3.5 -> 4
    assert history.sparkline([2.0, 2.0]) == "▁▁" and history.sparkline([1.0]) == ""
    assert history.number("nan") is None and history.number("") is None and history.number("2e3") == 2000


def test_the_estimate_adds_up(study):
    demo = read_study(RAW, "demo")
    stages = {stage.stage: stage for stage in estimate.Estimate(demo, study, "cpu-core", 2, 1500).stages()}
    assert stages["train both"].jobs == 2 and stages["attack hotflip"].jobs == 4 and stages["controls"].jobs == 2
    tokens = stages["train both"].tokens
    assert tokens == 2 * estimate.steps_of(demo.training, 0.8 * 1_124_000) * 32 * 256
    assert stages["train both"].flops == pytest.approx(6 * tokens * 1.317e6, rel=0.3)
    put(study / "data/train/data.json", {"tokens": 256 * 320 + 1, "documents": 1})
    again = {stage.stage: stage for stage in estimate.Estimate(demo, study, "cpu-core", 2, 1500).stages()}
    assert again["train both"].steps == 2 * 10
    weights = 4.0 * estimate.shape_of(demo.model, study / "base").parameters
    assert stages["train both"].disk == 2 * weights  # what stays
    one = estimate.Estimate(demo, study, "cpu-core", 1, 1500).checkpoints().disk
    assert stages["checkpoints"].disk == 2 * one > 2 * (demo.operation.keep + 3) * 3 * weights  # of two runs at a time


def test_the_doctor_is_green_red_or_puzzled(study):
    demo = read_study(RAW, "demo")
    found = {finding.check: finding for finding in doctor.examine(checks.all_checks(demo, study))}
    assert found["python"].colour == found["file system"].colour == found["clock"].colour == "green"
    assert found["hub"].text == "not needed by this study"
    assert not list(study.parents[1].rglob(".doctor*"))
    broken = doctor.examine([("odd", lambda: 1 / 0)])
    assert broken[0].colour == "yellow" and "ZeroDivisionError" in broken[0].text


def test_the_doctor_sees_what_is_missing(study, monkeypatch, tmp_path):
    lock = put(tmp_path / "lock", "no-such-package==1.0\nnumpy==0.0.1\n")
    assert checks.packages(lock)[0] == "red" and "no-such-package" in checks.packages(lock)[1]
    lock.write_text("numpy==0.0.1\n")
    assert checks.packages(lock)[0] == "yellow"
    large = read_study(
        RAW
        | {"model": {"source": "hub", "name": "meta-llama/Llama-3.1-8B", "revision": "v1"}, "arms": {"baseline": {}}},
        "x",
    )
    monkeypatch.setattr(checks, "total_memory", lambda: 2**34)
    monkeypatch.setattr(checks, "gpus", lambda: [])
    assert checks.memory(large, study)[0] == "red" and "share the model" in checks.memory(large, study)[1]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert checks.downloads(large)[0] == "red" and "until fetch" in checks.downloads(large)[1]
    monkeypatch.setattr(checks_disk.shutil, "disk_usage", lambda _: type("D", (), {"free": 10**9})())
    assert checks_disk.disk(large, study)[0] == "red"


def test_what_a_profile_would_submit(root):
    profile = yaml.safe_load((root / "profiles/slurm/config.yaml").read_text())
    jobs = jobs_of(profile)
    assert {"default", "train_baseline", "train_monotonic"} <= set(jobs)
    assert submission(jobs["default"])[0].startswith("--partition=") and "--mem=4000" in submission(jobs["default"])
    assert submission({"gpu": 2, "gpu_model": "a100", "runtime": "240 * min(attempt, 3)"}) == [
        "--time=240",
        "--gpus=a100:2",
    ]


def test_second_names_take_no_room(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "results/model").write_bytes(b"x" * 1000)
    (tmp_path / "state/model").hardlink_to(tmp_path / "results/model")
    (tmp_path / "state/events").write_bytes(b"y" * 10)
    assert folder_size(tmp_path / "state") == 10
    (tmp_path / "results/model").unlink()
    assert folder_size(tmp_path / "state") == 1010
