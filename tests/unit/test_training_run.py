"""Whole runs inside this process: correct against a plain loop, and every way a run can go."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as functional
from isotone.config.constraint import Constraint
from isotone.config.training import Operation, TrainJob
from isotone.constraints import weight_maps
from isotone.data.blocks import Blocks, TokenSplit
from isotone.data.sample_order import samples
from isotone.errors import ConfigurationError, Diverged, InputOutputError, Unfinished
from isotone.models import load_model
from isotone.records import file_digest
from isotone.schema import merge, parse
from isotone.training import engine, finish, micro_batch
from isotone.training.identity import identify
from isotone.training.inputs import Outputs, Run
from isotone.training.loop import Loop
from isotone.training.run import train
from isotone.training.supervision.stop import SIGNALS
from torch.nn.utils import parametrize

from tests.resume.tiny import CONSTRAINED, LENGTH, OPERATION, RARE, SETTINGS, Study, write_model
from tests.unit.test_training_optimizer import Map

GOLDEN = [
    4.157313,
    4.138532,
    4.068827,
    4.032218,
    3.918032,
    3.926106,
    3.869343,
    3.834472,
    3.755925,
    3.743769,
    3.658724,
    3.664896,
    3.618788,
    3.520366,
    3.601091,
    3.615661,
    3.586007,
    3.517072,
    3.473165,
    3.502731,
]


@pytest.fixture(autouse=True)
def restored():
    """Leave signals, threads and determinism as they were."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study.make(tmp_path_factory.mktemp("study"), model={"constraint": CONSTRAINED})


def make(
    study: Study,
    place: Path,
    settings: dict[str, Any] | None = None,
    operation: dict[str, Any] | None = None,
    **more: Any,
) -> Run:
    job = parse(TrainJob, merge(merge(SETTINGS, {"constraint": CONSTRAINED}), settings or {}))
    root = place / "state"
    teacher = more.pop("teacher", None)
    identity = identify(job, study.start, study.train, study.validation, teacher, root)
    return Run(
        job=job,
        operation=parse(Operation, merge(OPERATION, operation or {})),
        identity=identity,
        folder=root / identity.digest,
        study_folder=place,
        name="tiny",
        start=study.start,
        train=study.train,
        validation=study.validation,
        teacher=teacher,
        outputs=Outputs(place / "model", place / "history.csv", place / "certificate.json", place / "train.json"),
        **more,
    )


def go(run: Run) -> dict[str, Any]:
    train(run)
    return json.loads(run.outputs.marker.read_text())["result"]


def history(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.outputs.history)


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


def plain_loop(study: Study, run: Run, steps: int) -> tuple[list[float], torch.nn.Module]:
    """The same training as a page of ordinary torch with `parametrize`."""
    training = run.job.training
    model: Any = load_model(study.start)
    maps = weight_maps(model, run.job.constraint)
    for name, rule in maps.items():
        module, _, leaf = name.rpartition(".")
        parametrize.register_parametrization(model.get_submodule(module), leaf, Map(rule))
    groups: dict[str, list[torch.nn.Parameter]] = {"constrained": [], "matrices": [], "vectors": []}
    for name, value in model.named_parameters():
        kind = "constrained" if name.endswith(".original") else "matrices" if value.ndim > 1 else "vectors"
        groups[kind].append(value)
    decay = {"constrained": 0.0, "matrices": training.weight_decay, "vectors": 0.0}
    adamw = torch.optim.AdamW(
        [{"params": groups[kind], "weight_decay": decay[kind]} for kind in groups], eps=training.epsilon
    )
    blocks = Blocks(TokenSplit.open(study.train), training.length)
    warm, losses = round(training.warm_up * steps), []
    for step in range(steps):
        order = samples(run.job.seed, len(blocks), step * training.global_batch, training.global_batch)
        inputs, targets = (torch.from_numpy(part) for part in blocks.arrays(order))
        loss = functional.cross_entropy(model(input_ids=inputs).logits.flatten(0, 1), targets.flatten())
        adamw.zero_grad()
        loss.backward()
        for values in groups.values():
            norm = float(torch.stack([value.grad.norm() for value in values]).norm())
            for value in values:
                value.grad *= min(1.0, training.max_grad_norm / norm)
        share = (step - warm) / (steps - warm)
        for group in adamw.param_groups:
            group["lr"] = training.learning_rate * ((step + 1) / warm if step < warm else 1 - share)
        adamw.step()
        losses.append(float(loss.detach()))
    for name in maps:
        module, _, leaf = name.rpartition(".")
        parametrize.remove_parametrizations(model.get_submodule(module), leaf)
    return losses, model


def test_twenty_steps_equal_a_plain_loop_with_parametrize_and_stay_golden(study: Study, tmp_path: Path) -> None:
    run = make(study, tmp_path, {"training": {"epochs": 5, "max_grad_norm": 0.5, "weight_decay": 0.1}})
    result = go(run)
    assert result["steps"] == 20
    ours = history(run)["loss"].dropna().tolist()
    theirs, model = plain_loop(study, run, 20)
    assert np.abs(np.array(ours) - theirs).max() < 1e-4
    assert ours == pytest.approx(GOLDEN, abs=1e-4)
    trained = dict(load_model(run.outputs.model).named_parameters())
    for name, value in model.named_parameters():
        assert torch.allclose(value, trained[name], atol=2e-4), name
    assert result["certificate"] == "conditional"
    assert result["moved_share"] == 1.0
    assert min(float(trained[name].min()) for name in weight_maps(model, run.job.constraint)) >= 0


def test_every_scored_token_of_the_global_batch_counts_alike(study: Study, tmp_path: Path) -> None:
    """Leaves with very different numbers of targets: a mean of their means would be another loss."""
    shutil.copytree(study.folder, tmp_path / "study")
    partly = Study(tmp_path / "study")
    scored = np.random.default_rng(4).random(len(np.fromfile(partly.train / "tokens.bin", np.uint16))) < 0.5
    scored[: 16 * LENGTH] = False
    scored.astype(np.uint8).tofile(partly.train / "scored.bin")
    run = make(partly, tmp_path / "run", {"training": {"epochs": 2}})
    result = go(run)
    theirs, _ = plain_loop(partly, run, result["steps"])
    assert np.abs(history(run)["loss"].dropna().to_numpy() - theirs).max() < 1e-4
    assert result["tokens"] == 2 * scored[1 : 32 * LENGTH + 1].sum()


def test_the_unconstrained_arm_is_the_same_trainer(study: Study, tmp_path: Path) -> None:
    run = make(study, tmp_path, {"constraint": {"scope": "none", "init": "keep"}})
    result = go(run)
    assert result["certificate"] == "not_monotone_by_design"
    assert result["moved_share"] is None
    assert "grad_norm_constrained" not in history(run).columns


def validate_to(monkeypatch: pytest.MonkeyPatch, losses: dict[int, float]) -> None:
    """What the validations of a run give, by step: which one is best does not hang on the digits of training."""
    real = Loop._validate

    def validate(self: Loop) -> None:
        self.validator = lambda size, between: losses[self.state.step]  # type: ignore[assignment]
        real(self)

    monkeypatch.setattr(Loop, "_validate", validate)


def test_stopping_after_each_epoch_and_exporting_the_best(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third of four validations is the best: its weights are exported, not the last ones or a milestone's."""
    losses = {0: 9.0, 4: 5.0, 8: 4.0, 12: 3.0, 16: 6.0}
    validate_to(monkeypatch, losses)
    settings = {"training": {"epochs": 4, "milestones": [0.5, 0.75]}}
    whole = go(make(study, tmp_path / "whole", settings))
    assert whole["best"] == {"step": 12, "loss": 3.0}
    assert whole["steps"] == 16
    pieces = make(study, tmp_path / "pieces", settings, {"keep_state": True}, max_epochs=1)
    for epoch in (1, 2, 3):
        with pytest.raises(Unfinished, match=f"epoch {epoch} of 4 done; run again to continue"):
            train(pieces)
    assert go(pieces) == whole
    validation = history(pieces).dropna(subset=["validation_loss"])
    assert dict(zip(validation["step"], validation["validation_loss"], strict=True)) == losses
    assert whole["milestones"] == {"0.5": 8, "0.75": 12}
    digests = {
        share: file_digest(pieces.outputs.model / "milestones" / share / "model.safetensors")
        for share in whole["milestones"]
    }
    assert digests["0.5"] != whole["weights_sha256"] == digests["0.75"]
    assert (pieces.folder / "checkpoints.g000004" / "step-000000016").exists()
    assert not list((tmp_path / "whole" / "state").glob("*/checkpoints.g*/*"))  # cleaned
    assert (tmp_path / "whole" / "state").exists()


def test_a_damaged_best_is_trained_again(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validate_to(monkeypatch, {0: 9.0, 4: 5.0, 8: 3.0, 12: 6.0})
    wanted = go(make(study, tmp_path / "a"))
    run = make(study, tmp_path / "b")
    real, spoiled = finish.best_weights, []

    def spoil(loop: Any) -> bool:
        if not spoiled:
            spoiled.append(loop.state.best["step"])
            path = loop.checkpointer.saver.store.path(spoiled[0]) / "weights.safetensors"
            os.truncate(path, 100)
        return real(loop)

    monkeypatch.setattr("isotone.training.run.best_weights", spoil)
    assert go(run) == wanted
    assert spoiled == [8]
    assert events(run, "damaged")


def test_a_run_that_never_validates_to_a_number_ends_with_70(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.Engine, "score", lambda *_: torch.tensor(math.nan))
    run = make(study, tmp_path, {"training": {"epochs": 1}})
    with pytest.raises(Diverged, match="No validation"):
        train(run)
    assert json.loads((run.folder / "refused.json").read_text())["code"] == 70


def poisoned(study: Study, folder: Path, steps: list[int]) -> Study:
    """One token with a NaN embedding, in a block of each of the given steps (of the first epoch)."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(study.folder, folder)
    made = Study(folder)
    tensors = load_file(made.start / "model.safetensors")
    tensors["gpt_neox.embed_in.weight"][RARE] = math.nan
    save_file(tensors, made.start / "model.safetensors", metadata={"format": "pt"})
    tokens = np.fromfile(made.train / "tokens.bin", np.uint16)
    for step in steps:
        tokens[samples(3, 32, step * 8, 8)[0] * LENGTH + 5] = RARE
    tokens.tofile(made.train / "tokens.bin")
    return made


@pytest.mark.parametrize("operation", [{}, {"save_every_steps": 1, "keep": 8}])
def test_a_roll_back_passes_over_what_led_to_it(study: Study, tmp_path: Path, operation: dict[str, Any]) -> None:
    """Steps 2 and 3 are NaN: back to the anchor at 2; the second epoch meets the same blocks and goes back to 6."""
    bad = poisoned(study, tmp_path / "bad", [2, 3])
    faults = {"skips": 2, "roll_back_every": 2, "spike_factor": 0.0}
    run = make(bad, tmp_path / "run", {"training": {"epochs": 2, "faults": faults}}, operation)
    result = go(run)
    assert next((entry["from"], entry["to"]) for entry in result["passed_over"]) == (2, 4)
    assert result["updates"] <= 6
    steps = history(run)["step"].tolist()
    assert len(steps) == len(set(steps))
    assert not {3, 4} & set(history(run).dropna(subset=["loss"])["step"])
    reference = make(bad, tmp_path / "again", {"training": {"epochs": 2, "faults": faults}}, {"save_every_steps": 3})
    assert go(reference)["weights_sha256"] == result["weights_sha256"]


def test_a_roll_back_to_the_beginning_starts_from_the_start_weights(study: Study, tmp_path: Path) -> None:
    bad = poisoned(study, tmp_path / "bad", [0, 1])
    run = make(bad, tmp_path / "run", {"training": {"epochs": 1, "faults": {"skips": 2, "roll_back_every": 50}}})
    shutil.rmtree(run.folder, ignore_errors=True)
    result = go(run)
    assert [(entry["from"], entry["to"]) for entry in result["passed_over"]] == [(0, 2)]
    assert result["updates"] == 2


def test_distillation_needs_and_uses_its_teacher(study: Study, tmp_path: Path) -> None:
    write_model(tmp_path / "teacher", seed=5)
    settings = {"training": {"epochs": 1, "distillation": {"alpha": 0.5}}}
    taught = go(make(study, tmp_path / "a", settings, teacher=tmp_path / "teacher"))
    alone = go(make(study, tmp_path / "b", {"training": {"epochs": 1}}, teacher=tmp_path / "teacher"))
    assert taught["weights_sha256"] != alone["weights_sha256"]


@pytest.mark.parametrize(
    "settings", [{"precision": "fp16"}, {"precision": "bf16"}, {"pure_bf16": True}, {"gradient_checkpointing": True}]
)
def test_other_arithmetic_trains_too_and_resumes_exactly(
    study: Study, tmp_path: Path, settings: dict[str, Any]
) -> None:
    training = {"training": {"epochs": 2, **settings}}
    whole = go(make(study, tmp_path / "a", training))
    assert whole["final_loss"] < whole["start_loss"]
    run = make(study, tmp_path / "b", training, max_epochs=1)
    with pytest.raises(Unfinished):
        train(run)
    assert go(run)["weights_sha256"] == whole["weights_sha256"]
    assert whole["precision"] == settings.get("precision", "fp32")


def test_pure_bf16_freezes_weights_and_fp32_masters_do_not(study: Study, tmp_path: Path) -> None:
    """The mistake of the published study, and why V is kept in fp32."""
    small = {"epochs": 1, "learning_rate": 1e-5}
    frozen = go(make(study, tmp_path / "a", {"training": {**small, "pure_bf16": True}}))
    moving = go(make(study, tmp_path / "b", {"training": {**small, "precision": "bf16"}}))
    assert moving["moved_share"] > 0.95
    assert frozen["updates"] == moving["updates"]
    start, rounded = load_model(study.start).bfloat16().float(), load_model(tmp_path / "a" / "model")
    name = "gpt_neox.layers.0.attention.dense.weight"
    assert float((start.get_parameter(name) == rounded.get_parameter(name)).float().mean()) > 0.5


def test_the_largest_leaf_is_found_recorded_and_kept(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"training": {"micro_batch": "auto", "epochs": 2}}
    free = go(make(study, tmp_path / "free", settings))
    assert free["micro_batch_size"] == 8
    assert free["bitwise"] is False
    peaks = {size: megabytes << 20 for size, megabytes in {1: 100, 2: 150, 4: 250, 8: 450}.items()}
    monkeypatch.setattr(micro_batch, "_try", lambda engine, blocks, leaf, device: peaks[leaf])
    monkeypatch.setattr(micro_batch, "memory_limit", lambda device: 400 << 20)
    run = make(study, tmp_path / "small", settings, {"target_memory": 1.0}, max_epochs=1)
    with pytest.raises(Unfinished):
        train(run)
    assert events(run, "micro_batch")[0]["micro_batch_size"] == 4
    monkeypatch.setattr(micro_batch, "memory_limit", lambda device: 10_000 << 20)
    assert go(run)["micro_batch_size"] == 4  # a start that resumes keeps what was recorded
    assert micro_batch.candidates(run.job.training, 4) == [1, 2]


def test_a_leaf_that_does_not_fit_at_all_is_not_taken(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = Blocks(TokenSplit.open(study.train), LENGTH)

    class Small:
        def train(self, window: torch.Tensor, *_: Any, **__: Any) -> None:
            raise {2: RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1: ValueError("a fault")}[len(window)]

    assert micro_batch._try(Small(), blocks, 2, torch.device("cpu")) is None  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a fault"):
        micro_batch._try(Small(), blocks, 1, torch.device("cpu"))  # type: ignore[arg-type]
    assert micro_batch.memory_limit(torch.device("cpu")) > 1 << 28


def test_out_of_memory_halves_five_times_at_most(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, limit = engine.Engine.train, [2]

    def scarce(self: Any, batch: Any, **more: Any) -> torch.Tensor:
        if len(batch) > limit[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch, **more)

    monkeypatch.setattr(engine.Engine, "train", scarce)
    run = make(study, tmp_path / "a", {"training": {"micro_batch_size": 8, "epochs": 1}})
    result = go(run)
    assert (result["micro_batch_size"], result["bitwise"]) == (2, False)
    assert [event["micro_batch_size"] for event in events(run, "out_of_memory")] == [4, 2]
    limit[0] = 0
    broke = make(study, tmp_path / "b", {"training": {"micro_batch_size": 8, "epochs": 1}})
    with pytest.raises(ConfigurationError, match="Memory does not suffice"):
        train(broke)
    assert not (broke.folder / "refused.json").exists()  # another machine may have more


def test_a_step_that_fails_for_another_reason_is_a_fault_with_a_traceback(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(engine.Engine, "train", broken)
    run = make(study, tmp_path)
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(run)
    outcome = json.loads((run.folder / "outcome.json").read_text())
    assert outcome["code"] == 1
    assert "Traceback" in outcome["message"]


def test_files_that_cannot_be_used_are_74(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(study, tmp_path)
    monkeypatch.setattr(
        "isotone.training.checkpointing.checkpointer.Store", lambda *_: (_ for _ in ()).throw(OSError(30, "read-only"))
    )
    with pytest.raises(InputOutputError, match="ISOTONE_STATE"):
        train(run)
    assert json.loads((run.folder / "outcome.json").read_text())["code"] == 74


def test_a_checkpoint_of_another_run_is_never_resumed(study: Study, tmp_path: Path) -> None:
    run = make(study, tmp_path, max_epochs=1)
    with pytest.raises(Unfinished):
        train(run)
    other = make(study, tmp_path, {"seed": 9, "training": {"weight_decay": 0.5}})
    other.folder.mkdir()
    shutil.copytree(run.folder / "checkpoints.g000001", other.folder / "checkpoints.g000001")
    with pytest.raises(
        ConfigurationError, match=r"settings.seed \(3 then, 9 now\); settings.training.weight_decay \(0.01 then"
    ):
        train(other)


def test_the_constraint_of_the_settings_is_the_one_of_the_weights() -> None:
    assert Constraint(**CONSTRAINED).scope == "mlp_both"
