"""NaN, spikes, the ledger; precision, loss scales and memory errors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from isotone.config.training import Distillation, Faults, Training
from isotone.data.batch import Batch
from isotone.errors import ConfigurationError, Diverged
from isotone.training.engine import FIRST_SCALE, GROW_AFTER, Engine, LossScale, choose_precision, is_out_of_memory
from isotone.training.faults import ENOUGH, WINDOW, Guard, Ledger

from tests.unit.models_zoo import VOCABULARY, tiny


def guard(**settings: object) -> Guard:
    made = Guard(Faults(**settings))  # type: ignore[arg-type]
    for _ in range(ENOUGH):
        made.accept(2.0, {"matrices": 1.0})
    return made


@pytest.mark.parametrize(
    ("loss", "norm", "words"),
    [
        (math.nan, 1.0, "the loss is nan"),
        (math.inf, 1.0, "the loss is inf"),
        (2.0, math.inf, "gradient norm of matrices is inf"),
        (20.1, 1.0, "times its median"),
        (2.0, 10.1, "gradient norm 10.1 of matrices"),
        (19.9, 9.9, ""),
    ],
)
def test_verdicts(loss: float, norm: float, words: str) -> None:
    verdict = guard().verdict(loss, {"matrices": norm})
    assert words in verdict
    assert bool(verdict) == bool(words)


def test_spikes_need_a_history_and_can_be_switched_off() -> None:
    fresh = Guard(Faults())
    for _ in range(ENOUGH - 1):
        fresh.accept(2.0, {"matrices": 1.0})
    assert not fresh.verdict(1000.0, {"matrices": 1000.0})
    assert not guard(spike_factor=0.0).verdict(1000.0, {"matrices": 1000.0})
    assert guard(spike_factor=0.0).verdict(math.nan, {})


def test_the_guard_remembers_a_window_and_travels_with_the_checkpoint() -> None:
    made = guard(skips=2)
    for _ in range(2 * WINDOW):
        made.accept(3.0, {"matrices": 2.0})
    assert len(made.losses) == len(made.norms["matrices"]) == WINDOW
    assert not made.skip()
    other = Guard(Faults(skips=2))
    other.load(made.state())
    assert other.state() == made.state()
    assert other.skip()
    other.accept(3.0, {})
    assert other.in_a_row == 0


def test_the_ledger_voids_steps_survives_and_ends_in_70(tmp_path: Path) -> None:
    faults = Faults(roll_backs=2)
    ledger = Ledger(tmp_path / "ledger.json")
    ledger.add(4, 8, "why", faults, write=True)
    ledger.add(4, 12, "again", faults, write=False)
    assert [step for step in range(15) if ledger.void(step)] == list(range(4, 12))
    assert [step for step in range(15) if Ledger(ledger.path).void(step)] == list(range(4, 8))
    with pytest.raises(Diverged, match="After 2 roll-backs"):
        ledger.add(0, 13, "more", faults, write=True)


def test_checkpoints_of_abandoned_branches_are_not_admitted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.json")
    ledger.add(4, 8, "why", Faults(), write=False)
    assert ledger.admits(4, 0)  # where the roll-back went
    assert not ledger.admits(6, 0)  # made before it, on the branch that diverged
    assert ledger.admits(6, 1)  # made after it
    ledger.add(6, 12, "again", Faults(), write=False)
    assert not ledger.admits(8, 1)
    assert ledger.admits(6, 1)


def test_loss_scales_halve_on_overflow_grow_after_a_while_and_are_one_without_fp16() -> None:
    scale = LossScale(True)
    assert scale.overflow()
    assert scale.value == FIRST_SCALE / 2
    for _ in range(GROW_AFTER):
        scale.succeed()
    assert scale.value == FIRST_SCALE
    again = LossScale(True)
    again.load(scale.state())
    assert again.state() == scale.state()
    while scale.overflow():
        pass
    assert scale.value == 1.0  # then it is the step that is at fault
    assert LossScale(False).value == 1.0
    assert not LossScale(False).overflow()


def test_memory_errors_are_told_from_others() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_auto_precision_is_fp32_on_a_cpu() -> None:
    assert choose_precision("auto", torch.device("cpu")) == "fp32"
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"


def batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, VOCABULARY, (2, 17), generator=generator)
    return Batch(ids[:, :-1], ids[:, 1:])


def gradients(model: torch.nn.Module, engine: Engine) -> torch.Tensor:
    model.zero_grad()
    engine.train(batch(), seed=1, step=2, micro_batch=3)
    return torch.cat(
        [value.grad.flatten() / engine.loss_scale for value in model.parameters() if value.grad is not None]
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_agrees_with_fp32_and_keeps_fp32_masters(precision: str) -> None:
    training = Training(global_batch=2, micro_batch_size=2, length=16)
    model = tiny("gpt_neox")
    exact = gradients(model, Engine(model, training, torch.device("cpu"), None))
    low = tiny("gpt_neox")
    engine = Engine(
        low, Training(global_batch=2, micro_batch_size=2, length=16, precision=precision), torch.device("cpu"), None
    )
    rounded = gradients(low, engine)
    assert engine.scale.active == (precision == "fp16")
    error = float((rounded - exact).norm() / exact.norm())
    assert 1e-6 < error < 0.05  # it rounds, and it is right
    assert {value.dtype for value in low.parameters()} == {torch.float32}


def test_checkpointed_activations_give_the_same_gradient() -> None:
    first, second = tiny("gpt_neox"), tiny("gpt_neox")
    plain = gradients(
        first, Engine(first, Training(global_batch=2, micro_batch_size=2, length=16), torch.device("cpu"), None)
    )
    settings = Training(global_batch=2, micro_batch_size=2, length=16, gradient_checkpointing=True)
    engine = Engine(second, settings, torch.device("cpu"), None)
    assert second.is_gradient_checkpointing
    assert torch.allclose(gradients(second, engine), plain, atol=1e-5)


def test_dropout_depends_on_the_position_and_not_on_the_past() -> None:
    model = tiny("gpt_neox")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    engine = Engine(model, Training(global_batch=2, micro_batch_size=2, length=16), torch.device("cpu"), None)
    first = gradients(model, engine)
    torch.rand(100)
    assert torch.equal(gradients(model, engine), first)
    model.zero_grad()
    engine.train(batch(), seed=1, step=2, micro_batch=4)
    other = torch.cat(
        [value.grad.flatten() / engine.loss_scale for value in model.parameters() if value.grad is not None]
    )
    assert not torch.equal(other, first)


def test_a_teacher_pulls_and_must_share_the_vocabulary() -> None:
    model, teacher = tiny("gpt_neox"), tiny("gpt_neox")
    settings = Training(global_batch=2, micro_batch_size=2, length=16, distillation=Distillation(alpha=1.0))
    engine = Engine(model, settings, torch.device("cpu"), teacher)
    assert float(engine.train(batch(), seed=0, step=0, micro_batch=0)) == pytest.approx(
        0, abs=1e-3
    )  # it is its own teacher
    assert float(engine.score(batch())) > 100  # validation is the plain loss
    other = tiny("gpt_neox")
    other.resize_token_embeddings(VOCABULARY + 8)
    with pytest.raises(ConfigurationError, match="the same tokenizer"):
        Engine(model, settings, torch.device("cpu"), other)
