"""What a study's folder says about itself: stages, runs, failures, cost. Reads, never writes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isotone.cluster.queue import Job, own_jobs
from isotone.commands.history import (
    benchmark_seconds,
    folder_size,
    last_error,
    sparkline,
    tail,
)
from isotone.commands.queued import job_of_run, job_of_step, jobs_of
from isotone.config.data import SPLITS
from isotone.layout import Layout, state_root
from isotone.records import read_json_quietly
from isotone.studies.study import Study
from isotone.training.supervision.liveness import FAILED, KILLED, judge
from isotone.training.supervision.outcome import halted
from isotone.training.telemetry.gpu import recent_use
from isotone.training.telemetry.reading import read_history

ALIVE = 60.0  # seconds since the last heartbeat, or line of a log, after which a run counts as silent


@dataclass
class Step:
    """One file-producing step: its marker, and its log."""

    stage: str
    name: str
    marker: Path
    log: Path
    state: str = "waiting"
    note: str = ""


@dataclass
class Run:
    """One training run."""

    name: str
    state: str = "waiting"
    step: int | None = None
    steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    heartbeat_age: float | None = None
    gpu: float | None = None
    goodput: float | None = None
    spark: str = ""
    note: str = ""
    log: str = ""
    queue: str = ""
    flags: list[str] = field(default_factory=list)


@dataclass
class Survey:
    """A study at one moment."""

    study: str
    time: float
    stages: list[dict[str, Any]]
    runs: list[Run]
    failed: list[dict[str, str]]
    seconds: float
    state_bytes: int
    queue: dict[str, int]
    held: list[str]
    halted: bool


def expected_steps(study: Study, folder: Path) -> list[Step]:
    """Every step that the configuration asks for, apart from training, in the order of work."""
    files = Layout(str(folder))

    def step(stage: str, name: str, marker: str, log: str) -> Step:
        return Step(stage, name, Path(marker), Path(files.log(log)))

    steps = []
    if "hub" in (study.model.source, *(source.source for source in study.data.candidates())):
        steps.append(step("fetch", "fetch", files.fetched, "fetch"))
    steps.append(step("corpus", "corpus", files.corpus, "corpus"))
    steps.append(step("setup", "setup", files.setup, "setup"))
    steps += [step("tokenize", split, files.split(split).marker, f"tokenize/{split}") for split in SPLITS]
    steps.append(step("attack documents", "attack", files.attack_manifest, "attack_documents"))
    steps += [step("starts", arm, files.start(arm).certificate, f"starts/{arm}") for arm in study.arms]
    for arm, seed in study.runs():
        run, name = files.run(arm, seed), f"{arm}-seed-{seed}"
        job = study.shared_job(arm, seed) or name
        steps.append(step("calibrate", name, run.calibration, f"calibrate/{job}"))
        steps.append(step("perplexity", name, run.perplexity.marker, f"perplexity/{job}"))
        if study.writes:
            steps.append(step("generate", name, run.generation.marker, f"generate/{name}"))
        for attack in study.attacks_of(arm):
            steps.append(step(f"attack {attack}", name, run.attack(attack).marker, f"attacks/{attack}/{job}"))
        for attack in study.written_after(arm):
            after = run.generation_after(attack)
            steps.append(step(f"generate_after {attack}", name, after.marker, f"generate_after/{attack}/{name}"))
        if study.order_preservation.run:
            steps.append(step("order", name, run.order.marker, f"order/{name}"))
    for attack in study.attacks.transfer:
        for arm in study.arms:
            for seed in study.seeds_of(arm):
                name = f"{arm}-seed-{seed}"
                log = f"transfer/{attack}/{study.shared_job(arm, seed) or name}"
                steps.append(step(f"transfer {attack}", name, files.transfer(attack, arm, seed).marker, log))
    steps.append(step("aggregate", "aggregate", files.results, "aggregate"))
    steps.append(step("report", "report", files.report, "report"))
    return steps


def judge_step(step: Step, now: float, job: Job | None) -> None:
    """Fill in whether a step is done, running, failed or waiting; ``job``: its job in the queue."""
    if step.marker.exists():
        step.state = "done"
        return
    if job is not None:
        step.state = "running" if job.state == "RUNNING" else "queued"
        return
    try:
        age = now - step.log.stat().st_mtime
    except OSError:
        return
    trouble = last_error(step.log)
    if age < ALIVE and not trouble:
        step.state = "running"
    elif trouble:
        step.state, step.note = "failed", trouble
    else:
        step.state, step.note = "stopped", "its log ends without a result"


def state_folders(folder: Path) -> dict[str, Path]:
    """Name of a run to its newest state folder."""
    found: dict[str, tuple[float, Path]] = {}
    for path in [*state_root(folder).glob("*/heartbeat.json"), *state_root(folder).glob("*/start.json")]:
        said = read_json_quietly(path)  # a start that failed at once has no heartbeat
        if said and isinstance(said.get("name"), str):
            stamp = float(said.get("time") or 0)
            if stamp >= found.get(said["name"], (0.0, path))[0]:
                found[said["name"]] = (stamp, path.parent)
    return {name: path for name, (_, path) in found.items()}


def _lease_time(state: Path) -> float:
    """When a trainer last renewed its lease, which it does also in the middle of a step of many minutes."""
    try:
        return (state / "lock").stat().st_mtime
    except OSError:
        return 0.0


def _fill_from_state(run: Run, state: Path, now: float) -> None:
    beat = read_json_quietly(state / "heartbeat.json") or {}
    for key in ("step", "steps", "epoch", "loss", "tokens_per_second", "eta_seconds", "goodput"):
        setattr(run, key, beat.get(key))
    alive = max(float(beat.get("time") or 0), _lease_time(state))
    run.heartbeat_age = now - alive if alive else None
    run.gpu = recent_use(state / "gpu.jsonl")
    flags = read_json_quietly(state / "flags.json") or {}
    run.flags = [str(text) for text in flags.get("flags", [])]
    run.spark = sparkline([row.get("loss") for row in read_history(state / "history.csv")])


def survey_run(name: str, outputs: Path, state: Path | None, log: Path, now: float, job: Job | None) -> Run:
    """One run, from its marker, its state folder and its log."""
    run = Run(name, log=str(log))
    if job is not None:
        run.queue = f"held {job.number} ({job.hold.reason})" if job.hold else f"{job.state.lower()} {job.number}"
    if state is not None:
        _fill_from_state(run, state, now)
    marker = read_json_quietly(outputs / "train.json")
    if marker is not None:
        result = marker.get("result", {})
        run.state = "done"
        run.step = run.steps = result.get("steps", run.steps)
        run.loss = result.get("final_loss")
        run.eta_seconds = run.heartbeat_age = None
        run.flags = [str(text) for text in marker.get("cost", {}).get("flags", run.flags)]
        history = read_history(outputs / "history.csv")
        run.epoch = history[-1].get("epoch") if history else run.epoch
        run.spark = sparkline([row.get("loss") for row in history])
        return run
    verdict = judge(state, now) if state else None
    if verdict and verdict.state in (KILLED, FAILED):
        run.state, run.note, run.eta_seconds = verdict.state, verdict.note, None
        run.log = str(verdict.log or log)
        return run
    refused = read_json_quietly(state / "refused.json") if state else None
    outcome = read_json_quietly(state / "outcome.json") if state else None
    if outcome and run.heartbeat_age is not None and float(outcome.get("time") or 0) < now - run.heartbeat_age:
        outcome = None  # the end of an earlier start: this one lives
    if refused:
        run.state, run.note = "failed", _first(refused.get("message"))
    elif outcome and outcome.get("code") == 75:
        run.state, run.note = "paused", _first(outcome.get("message"))
    elif outcome and outcome.get("code"):
        run.state, run.note = "failed", _last(outcome.get("message"))
    elif trouble := _crash(log, now, run.heartbeat_age):
        run.state, run.note = "failed", trouble
    elif run.heartbeat_age is not None:
        run.state = "running" if run.heartbeat_age < ALIVE else "silent"
    elif job is not None:
        run.state = "running" if job.state == "RUNNING" else "queued"
    elif trouble := last_error(log):
        run.state, run.note = "failed", trouble
    elif log.exists() and now - log.stat().st_mtime < ALIVE:
        run.state = "running"
    if run.state in ("paused", "failed") and _held(log, outputs, state, run.state):
        run.state, run.note = "halted", ""
    if run.state != "running":
        run.eta_seconds = None
    return run


def _held(log: Path, outputs: Path, state: Path | None, found: str) -> bool:
    """Whether a HALT file holds a run that would otherwise go on, or that ended because of it."""
    study = outputs.parents[2] if outputs.parent.parent.name == "runs" else outputs.parent
    said = (tail(log) or [""])[-1].startswith("isotone: halted")
    return (found == "paused" or said) and halted(state or study, study) is not None


def _crash(log: Path, now: float, heartbeat_age: float | None) -> str:
    """What a log says of a program that ended without an outcome, after its last sign of life; else empty."""
    try:
        age = now - log.stat().st_mtime
    except OSError:
        return ""
    if heartbeat_age is not None and age > heartbeat_age:
        return ""
    return last_error(log) if (tail(log) or [""])[-1].startswith("isotone: failed") else ""


def _first(text: Any) -> str:
    return (str(text or "").strip().splitlines() or [""])[0]


def _last(text: Any) -> str:
    return (str(text or "").strip().splitlines() or [""])[-1]


def survey(study: Study, folder: Path, jobs: list[Job] | None = None) -> Survey:
    """Look at a study's folder once.

    Args:
        jobs: the user's jobs in Slurm's queue; None: ask Slurm if there is one.
    """
    now = time.time()
    jobs = jobs_of(study.study, folder, own_jobs() if jobs is None else jobs)
    states = state_folders(folder)
    runs = []
    if study.model.source == "scratch":
        log = folder / "logs/pretrain.log"
        runs.append(
            survey_run(
                "pretrain", folder / "pretrain", states.get("pretrain"), log, now, job_of_run(jobs, study.study, "", "")
            )
        )
    for arm, seed in study.runs():
        name, log = f"{arm}/seed-{seed}", folder / f"logs/{'control' if '~' in arm else 'train'}/{arm}-seed-{seed}.log"
        job = job_of_run(jobs, study.study, arm, seed)
        runs.append(survey_run(name, folder / "runs" / arm / f"seed-{seed}", states.get(name), log, now, job))
    steps = expected_steps(study, folder)
    for step in steps:
        judge_step(step, now, job_of_step(jobs, study.study, step.stage, step.name, step.log))
    stages: dict[str, dict[str, Any]] = {}
    for stage, state in [("train", run.state) for run in runs] + [(step.stage, step.state) for step in steps]:
        entry = stages.setdefault(stage, {"stage": stage, "total": 0})
        entry["total"] += 1
        entry[state] = entry.get(state, 0) + 1
    order = list(dict.fromkeys(step.stage for step in steps))
    order.insert(order.index("starts") + 1, "train")
    failed = [{"what": f"{s.stage} {s.name}", "error": s.note, "log": str(s.log)} for s in steps if s.state == "failed"]
    failed += [
        {"what": f"train {run.name}", "error": run.note, "log": run.log}
        for run in runs
        if run.state in ("failed", "killed")
    ]
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.state.lower()] = counts.get(job.state.lower(), 0) + 1
    return Survey(
        study=study.study,
        time=now,
        stages=[stages[name] for name in order],
        runs=runs,
        failed=failed,
        seconds=benchmark_seconds(folder / "timings"),
        state_bytes=folder_size(state_root(folder)),
        queue=counts,
        held=[str(job.hold) for job in jobs if job.hold],
        halted=(folder / "HALT").exists(),
    )
