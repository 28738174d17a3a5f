"""Memory that runs out, is counted, or is given back, at every place of a run."""

from __future__ import annotations

import errno
import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from isotone.config.training import Training
from isotone.errors import ConfigurationError, Unfinished
from isotone.training import build, finish, micro_batch, stepper
from isotone.training.checkpointing.saver import Saver
from isotone.training.gather import Gatherer
from isotone.training.optimizer import Optimizer
from isotone.training.run import train
from isotone.training.stepper import OutOfMemory, Stepper
from isotone.training.world import TreeSum, World
from torch.multiprocessing.reductions import StorageWeakRef

from tests.resume.tiny import Study, write_model
from tests.unit.test_training_run import events, go, history, make, poisoned, restored, study  # noqa: F401


def storages(loop: Any) -> dict[str, list[StorageWeakRef]]:
    """Everything that only training needs, without keeping it alive."""
    optimizer, engine = loop.stepper.optimizer, loop.stepper.engine
    groups = {
        "gradients": [optimizer.flat],
        "V": list(optimizer.latents.values()),
        "moments": [value for kind in ("exp_avg", "exp_avg_sq") for value in optimizer.state()[kind].values()],
        "model": list(engine.model.parameters()),
        "teacher": list(engine.teacher.parameters()),
        "tree": list(loop.stepper.gather.tree._free),
        "staging": [value for group in loop.checkpointer.saver._staging.values() for value in group.values()],
    }
    assert all(groups.values())
    return {name: [StorageWeakRef(value.untyped_storage()) for value in values] for name, values in groups.items()}


def test_all_that_only_training_needs_is_gone_before_the_exported_model_is_read(
    study: Study,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second model beside the first, its gradients and moments: out of memory at the very end, for ever."""
    known: dict[str, list[StorageWeakRef]] = {}
    left: list[str] = []
    export, load = finish.export_milestones, finish.load_model

    def look(loop: Any, *more: Any) -> Any:
        known.update(storages(loop))
        return export(loop, *more)

    def read(folder: Path, **options: Any) -> Any:
        gc.collect()
        left.extend(name for name, refs in known.items() if not all(ref.expired() for ref in refs))
        return load(folder, **options)

    monkeypatch.setattr(finish, "export_milestones", look)
    monkeypatch.setattr(finish, "load_model", read)
    write_model(tmp_path / "teacher", seed=5)
    settings = {"training": {"epochs": 1, "distillation": {"alpha": 0.5}}}
    result = go(make(study, tmp_path, settings, teacher=tmp_path / "teacher"))
    assert known
    assert left == []
    assert result["moved_share"] == 1.0


def test_weights_before_training_are_on_the_device_one_at_a_time(study: Study, tmp_path: Path) -> None:  # noqa: F811
    run = make(study, tmp_path)
    before = finish.WeightsBefore(run, torch.device("meta"))
    assert {value.device.type for value in before.model.parameters()} == {"cpu"}
    assert {before[name].device.type for name in before} == {"meta"}
    here = finish.WeightsBefore(run, torch.device("cpu"))
    model = finish.load_model(run.start)
    optimizer = Optimizer(model, here.maps, run.job.training, decay_weight=False)  # which writes W = f(V)
    assert len(here) == len(optimizer.latents) > 0
    for name in here:
        assert torch.equal(here[name], model.get_parameter(name)), name


def test_a_roll_back_to_the_start_reads_no_second_model_onto_the_device(
    study: Study,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    load = build.load_model

    def read(folder: Path, **options: Any) -> Any:
        asked.append(options.get("device", "cpu"))
        return load(folder, device="cpu")

    def unsaved(*_: Any) -> None:
        raise OSError(errno.EACCES, "no checkpoint to go back to")

    monkeypatch.setattr(build, "load_model", read)
    monkeypatch.setattr(stepper, "load_model", read)
    monkeypatch.setattr(Saver, "_write", unsaved)
    monkeypatch.setattr("isotone.training.run.join", lambda operation: World(torch.device("cpu", 0)))
    bad = poisoned(study, tmp_path / "bad", [0, 1])
    result = go(make(bad, tmp_path / "run", {"training": {"epochs": 1, "faults": {"skips": 2, "roll_back_every": 50}}}))
    assert result["passed_over"]
    assert asked == [torch.device("cpu", 0), "cpu"]


@pytest.mark.parametrize("place", ["finish_gradients", "update"])
def test_memory_that_runs_out_behind_the_sum_shrinks_the_micro_batch(
    study: Study,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """Also where weights are half updated: the step is taken again from the newest checkpoint."""
    wanted = go(make(study, tmp_path / "wanted"))
    losses = history(make(study, tmp_path / "wanted"))["loss"].dropna().tolist()
    real, calls = getattr(Optimizer, place), []

    def scarce(self: Any, *args: Any) -> Any:
        result = real(self, *args)
        calls.append(1)
        if len(calls) == 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    monkeypatch.setattr(Optimizer, place, scarce)
    run = make(study, tmp_path / "scarce")
    result = go(run)
    assert (result["micro_batch_size"], result["bitwise"], wanted["bitwise"]) == (1, False, True)
    assert (result["steps"], result["updates"], result["tokens"]) == tuple(
        wanted[key] for key in ("steps", "updates", "tokens")
    )
    assert [event["micro_batch_size"] for event in events(run, "out_of_memory")] == [1]
    assert history(run)["loss"].dropna().tolist() == pytest.approx(losses, abs=1e-5)


def test_memory_that_never_suffices_behind_the_sum_ends_the_run(
    study: Study,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The checkpoint knows of no halving; what was learnt since is not forgotten by going back to it."""

    def never(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Optimizer, "update", never)
    run = make(study, tmp_path, {"training": {"micro_batch_size": 4}})
    with pytest.raises(ConfigurationError, match=r"after 2 halvings of training\.micro_batch_size = 4"):
        train(run)


def test_a_process_that_had_enough_memory_goes_back_with_the_others() -> None:
    class Together(World):
        def any(self, *flags: bool) -> list[bool]:
            return [True for _ in flags]

    stepper = Stepper(Together(torch.device("cpu")), *[None] * 5)  # type: ignore[arg-type]
    with pytest.raises(OutOfMemory):
        stepper._together(lambda: 1)
    with pytest.raises(RuntimeError, match="shapes differ"):
        stepper._together(lambda: (_ for _ in ()).throw(RuntimeError("shapes differ")))


def test_the_exchange_between_processes_allocates_nothing_that_only_one_would_miss(
    study: Study,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its buffer is there before the processes agree that all had enough memory."""
    order: list[str] = []
    lend = TreeSum.lend

    class Pair(World):
        def any(self, *flags: bool) -> list[bool]:
            order.append("agree")
            return list(flags)

        def table(self, rows: torch.Tensor) -> torch.Tensor:
            return rows

        def sum_exact(self, values: torch.Tensor, partner_values: torch.Tensor) -> None:
            assert partner_values.shape == values.shape
            assert partner_values.data_ptr() != values.data_ptr()
            order.append("sum")

    def note(self: TreeSum, like: torch.Tensor) -> torch.Tensor:
        if not self._free:
            order.append("allocate")
        return lend(self, like)

    monkeypatch.setattr(TreeSum, "lend", note)
    run = make(study, tmp_path, {"training": {"micro_batch_size": 4}})  # one leaf in each of two processes
    gather = object.__new__(Gatherer)
    gather.__dict__.update(training=run.job.training, world=Pair(torch.device("cpu"), 0, 2), tree=TreeSum())
    gather.leaves = range(0)
    gather._accumulate = lambda state, flat, rows: Gatherer._reserve(gather, flat)  # type: ignore[method-assign]
    gather(build.TrainerState(micro_batch_size=4), torch.zeros(8))
    assert order == ["allocate", "agree", "sum"]


@pytest.mark.parametrize("leaves", range(1, 34))
def test_the_buffers_of_the_sum_are_counted(leaves: int) -> None:
    tree = TreeSum()
    for _ in range(leaves if leaves > 1 else 0):  # a single leaf is not summed
        tree.add(torch.ones(3))
    made = len(tree._partial) + len(tree._free)
    counted = micro_batch.sum_buffers(leaves, 1, "exact")
    assert made <= counted <= made + 1
    assert counted == made or leaves & (leaves - 1)  # what `exact` allows is counted exactly
    assert micro_batch.sum_buffers(4 * leaves, 4, "exact") == max(counted, 1)  # one travels
    assert micro_batch.sum_buffers(leaves, 1, "fast") == 0


def test_the_probe_counts_what_summing_takes(
    study: Study,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Smaller leaves need less for activations, and more for the tree: here the smallest does not fit."""
    peaks = {1: 100, 2: 110, 4: 130, 8: 170, 16: 250}
    monkeypatch.setattr(micro_batch, "_try", lambda engine, blocks, leaf, device: peaks[leaf])
    monkeypatch.setattr(micro_batch, "memory_limit", lambda device: 200)
    training = Training(global_batch=16, micro_batch="auto", length=16)
    operation = make(study, tmp_path, operation={"target_memory": 1.0}).operation
    told: list[dict[str, Any]] = []

    def choose(size: int) -> int:
        flat = torch.zeros(size // 4)
        world = World(torch.device("cpu"))
        tell = lambda _, **facts: told.append(facts)  # noqa: E731
        return micro_batch.choose(training, operation, world, None, None, flat, tell)  # type: ignore[arg-type]

    assert choose(20) == 8  # 170 + 1 buffer
    assert choose(32) == 4  # 170 + 32 is too much, 130 + 2 x 32 is not
    assert told[0]["micro_batch_size"] == 8


def test_other_programs_on_the_same_gpu_leave_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10)
    assert micro_batch.memory_limit(torch.device("cuda")) == 40


def test_a_smaller_micro_batch_is_remembered_by_the_next_start(
    study: Study,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = Optimizer.update, []

    def scarce(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, *args)

    monkeypatch.setattr(Optimizer, "update", scarce)
    run = make(study, tmp_path, max_epochs=1)
    with pytest.raises(Unfinished):
        train(run)
    assert go(make(study, tmp_path))["micro_batch_size"] == 1
