"""Pairs keep what training promises: killed anywhere, signalled, on 1, 2 or 4 processes, the same bits; and the same as a plain loop."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from isotone.data.sample_order import samples

from tests.resume.elastic import run_together
from tests.resume.runs import STEPS, Case, weights
from tests.resume.test_kills import torment
from tests.resume.test_signals import _wait_until_it_trains as wait_until_it_trains
from tests.resume.tiny import CONSTRAINED, LENGTH, Study
from tests.unit.pair_zoo import EOS, START, VOCABULARY, alone, random_pairs, write_pairs

PAIRS = random_pairs(100, shortest=2, longest=7)


def write_t5(folder: Path, constrained: bool) -> None:
    """A random T5 with ReLU in Hugging Face format."""
    from isotone.config.constraint import Constraint
    from isotone.constraints import constrain
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    shape = T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, dropout_rate=0.1,
        pad_token_id=START, eos_token_id=EOS, decoder_start_token_id=START,
    )  # fmt: skip
    model = T5ForConditionalGeneration(shape)
    (constrain(model, Constraint(**CONSTRAINED)) if constrained else model).save_pretrained(folder)  # type: ignore[arg-type]


def make(folder: Path, *, constrained: bool = True) -> Study:
    """A tiny study of pairs: 32 training rows, as the tiny study of texts has 32 blocks."""
    study = Study(folder)
    write_t5(study.start, constrained)
    write_pairs(study.train, PAIRS, longest=10)
    write_pairs(study.validation, random_pairs(30, seed=1, shortest=2, longest=7), longest=10)
    return study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def undisturbed(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """SHA-256 of the final weights of a run that nothing disturbed, and its steps."""
    case = Case(study, tmp_path_factory.mktemp("undisturbed"))
    assert case.start().wait() == 0, case.text()
    assert case.result()["final_loss"] < case.result()["start_loss"]
    return weights(case.place), case.result()["steps"]


@pytest.mark.timeout(600)
def test_kills_and_corruptions_change_no_bit(study: Study, undisturbed: tuple[str, int], tmp_path: Path) -> None:
    case = Case(study, tmp_path, operation={"save_every_steps": 1})
    count = torment(case, 10, 2, seed=3)
    assert count["kills"] >= 10 and count["corruptions"] == 2
    assert weights(case.place) == undisturbed[0]
    assert list(case.history()["step"]) == list(range(undisturbed[1] + 1))


def test_signals_save_and_go_on(study: Study, undisturbed: tuple[str, int], tmp_path: Path) -> None:
    case, chance, stopped = Case(study, tmp_path, operation={"save_every_minutes": 0}), random.Random(2), 0
    for _ in range(20):
        start = case.start()
        wait_until_it_trains(case, start)
        start.process.join(chance.uniform(0, 0.1))
        start.signal(signal.SIGTERM)
        code = start.wait()
        assert code in (0, 75), start.text()[-3000:]
        stopped += code == 75
        if code == 0:
            break
    assert stopped > 0 and (code == 0 or case.start().wait() == 0)
    assert weights(case.place) == undisturbed[0]


def test_processes_change_between_starts_and_no_bit_does(
    study: Study, undisturbed: tuple[str, int], tmp_path: Path
) -> None:
    case = Case(study, tmp_path, {"training": {"epochs": 3}}, {"save_every_steps": 1})
    for size in (1, 2, 4):
        codes = run_together(case, size, max_epochs_per_run=1)
        assert codes == [75 if size < 4 else 0] * size, case.text()
    assert weights(case.place) == undisturbed[0]


def test_steps_are_those_of_a_plain_loop_over_unpacked_pairs(tmp_path: Path) -> None:
    """Plain transformers, one pair at a time, torch's AdamW: the same losses, step by step."""
    from isotone.data.blocks import TokenSplit
    from isotone.data.pairs import PairRows
    from isotone.models import load_model

    study = make(tmp_path / "study", constrained=False)
    for folder in (study.start,):
        config = (folder / "config.json").read_text()
        (folder / "config.json").write_text(config.replace('"dropout_rate": 0.1', '"dropout_rate": 0.0'))
    free = {"scope": "none"}
    case = Case(
        study, tmp_path / "run", {"constraint": free, "training": {"max_grad_norm": 0, "faults": {"spike_factor": 0}}}
    )
    case.settings["constraint"] = free
    assert case.start().wait() == 0, case.text()
    ours = case.history()["loss"].dropna().to_numpy()
    rows = PairRows(TokenSplit.open(study.train), LENGTH)
    model, settings = load_model(study.start), case.settings["training"]
    matrices = [value for value in model.parameters() if value.ndim > 1]
    vectors = [value for value in model.parameters() if value.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, eps=1e-8)
    steps, batch = len(ours), 8
    warm = round(0.1 * steps)
    assert settings and steps == -(-3 * len(rows) // batch)
    for step in range(steps):
        members = [
            pair
            for row in samples(3, len(rows), step * batch, batch)
            for pair in PAIRS[rows._firsts[row] : rows._firsts[row + 1]]
        ]
        total, tokens = torch.zeros(()), 0
        for pair in members:
            one = alone(pair)
            logits = model(input_ids=one.source_BS, labels=one.targets_BT).logits[0]
            total = total + torch.nn.functional.cross_entropy(logits, one.targets_BT[0], reduction="sum")
            tokens += one.targets_BT.numel()
        optimizer.zero_grad()
        (total / tokens).backward()
        assert ours[step] == pytest.approx(float(total) / tokens, rel=2e-4), step
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * ((step + 1) / warm if step < warm else 1 - (step - warm) / (steps - warm))
        optimizer.step()
    assert ours[-1] < 0.95 * ours[0] and np.isfinite(ours).all() and STEPS
