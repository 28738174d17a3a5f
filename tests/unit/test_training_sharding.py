"""Sharding changes no bit: weights, latents, moments, norms and losses against the unsharded run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.resume.tiny import LENGTH, VOCABULARY, write_split
from tests.unit.sharded import together

STEPS = 2
BOTH = {"scope": "mlp_both", "init": "abs", "learning_rate_scale": "auto"}
GATED = {"scope": "gated_all", "init": "abs", "map": "softplus"}
BF16 = {"precision": "bf16"}
# name: (family, constraint, training, changes of the model)
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "none": ("gpt_neox", {}, {}, {}),
    "softplus": (
        "gpt_neox",
        BOTH,
        BF16,
        {"vocab_size": 67, "intermediate_size": 320},
    ),  # a vocabulary that nothing divides
    "exp": ("gpt_neox", BOTH | {"map": "exp", "weight_decay_on": "weight"}, {"gradient_checkpointing": True}, {}),
    "square": ("gpt_neox", BOTH | {"map": "square"}, {"max_grad_norm": 0.0}, {}),
    "abs": ("gpt_neox", BOTH | {"map": "abs", "weight_decay_on": "weight"}, {"max_grad_norm": 0.01}, {}),
    "project": ("gpt_neox", BOTH | {"map": "project"}, BF16 | {"gradient_checkpointing": True}, {}),
    "sign_frozen": ("gpt_neox", {"scope": "mlp_both", "map": "sign_frozen"}, {}, {}),
    "free": ("gpt_neox", {"scope": "mlp_both", "map": "free"}, {}, {}),
    "no_ffn": ("gpt_neox", {"init": "no_ffn"}, {}, {}),
    "strict": ("gpt_neox", BOTH | {"cone": "strict"}, {"max_grad_norm": 0.1}, {}),
    "strict, stored the other way": ("gpt2", BOTH | {"cone": "strict"}, BF16, {}),
    "lift": ("gpt_neox", {"scope": "mlp_both", "init": "lift"}, BF16, {}),
    "monotone activation": ("gpt_neox", BOTH | {"activation": "clamp"}, {}, {}),
    "dropout": ("gpt_neox", BOTH, {}, {"hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "gated, tied": ("llama", GATED, {}, {"tie_word_embeddings": True, "vocab_size": 67}),
    "fp16": ("gpt_neox", BOTH, {"precision": "fp16"}, {}),
}


def _architecture(family: str, **changes: Any) -> Any:
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
    )

    common = {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt2":
        size = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_inner": 256}
        return GPT2LMHeadModel(
            GPT2Config(**(common | size | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} | changes))
        )
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    config, model = (LlamaConfig, LlamaForCausalLM) if family == "llama" else (GPTNeoXConfig, GPTNeoXForCausalLM)
    return model(config(**(common | size | changes)))


def write_start(folder: Path, family: str, constraint: dict[str, Any], changes: dict[str, Any]) -> None:
    """A constrained random model, saved as an arm's start is."""
    import torch
    from isotone.config.constraint import Constraint
    from isotone.constraints import constrain
    from isotone.models import save_model

    torch.manual_seed(0)
    calibration = torch.randint(0, VOCABULARY, (4, LENGTH))
    settings = Constraint(**constraint)
    model = constrain(_architecture(family, **changes).eval(), settings, calibration=calibration)
    save_model(model, None, folder)


def _steps(gather: Any, optimizer: Any, engine: Any, leaf: int) -> list[Any]:
    from isotone.training.state import TrainerState

    gather.deal(leaf)
    seen = []
    for step in range(STEPS):
        tokens, loss = gather(TrainerState(step=step, micro_batch_size=leaf), optimizer.flat)
        norms = optimizer.finish_gradients(1 / (tokens * engine.loss_scale))
        optimizer.update(1e-2, norms)
        seen.append([loss, norms])
    gather.close()
    return seen


def train_both(world: Any, place: Path, names: list[str]) -> dict[str, list[str]]:
    """Train each case unsharded and sharded; what differs between the two, by case."""
    found = {}
    for name in names:
        try:
            found[name] = _differences(world, place, *CASES[name][1:3], folder=place / name)
        except Exception as error:
            error.add_note(f"in case {name!r}")
            raise
    return found


class Trained:
    """One of the two runs: its parts, and what its steps said."""

    def __init__(self, engine: Any, optimizer: Any, gather: Any, size: int, blocks: Any) -> None:

        self.engine, self.optimizer = engine, optimizer
        self.seen = _steps(gather, optimizer, engine, size)
        self.score = float(engine.score(blocks.batch([0, 1])))


def _pair(world: Any, folder: Path, constraint: Any, training: Any, place: Path) -> tuple[Trained, Trained]:
    """The same run unsharded and sharded."""
    import torch
    from isotone.config.constraint import Constraint
    from isotone.config.training import Operation, Training
    from isotone.constraints import guard_precision, weight_maps
    from isotone.data.blocks import Blocks, TokenSplit
    from isotone.models import load_model
    from isotone.training.engine import Engine
    from isotone.training.gather import Gatherer
    from isotone.training.optimizer import Optimizer
    from isotone.training.sharding.build import sharded
    from isotone.training.world import World

    settings = Constraint(**constraint)
    run = Training(**({"global_batch": 16, "micro_batch_size": 2, "length": LENGTH, "learning_rate": 1e-2} | training))
    blocks = Blocks(TokenSplit.open(place / "train"), LENGTH)
    silent: Any = lambda *_, **__: None  # noqa: E731
    model = load_model(folder)
    guard_precision(model, settings)
    decay_weight = settings.weight_decay_on == "weight"
    optimizer = Optimizer(model, weight_maps(model, settings), run, decay_weight=decay_weight)
    engine, alone = Engine(model, run, torch.device("cpu"), None), World(torch.device("cpu"))
    gather = Gatherer(run, Operation(), 5, alone, engine, blocks, silent)
    whole = Trained(engine, optimizer, gather, run.micro_batch_size, blocks)
    parts = sharded(folder, settings, run, world, teacher=None)
    gather = parts.gatherer(Operation(), 5, blocks, silent)
    return whole, Trained(parts.engine, parts.optimizer, gather, run.micro_batch_size, blocks)


def _differences(world: Any, place: Path, constraint: Any, training: Any, *, folder: Path) -> list[str]:
    import torch

    whole, parts = _pair(world, folder, constraint, training, place)
    shards = parts.optimizer.shards
    found = [] if parts.seen == whole.seen else [f"losses or norms: {parts.seen} instead of {whole.seen}"]
    if parts.score != whole.score:
        found.append("validation")
    if parts.optimizer.scales != whole.optimizer.scales:
        found.append("scales")
    ours, theirs = parts.optimizer.state(), whole.optimizer.state()
    ours["model"] = shards.local
    theirs["model"] = {name: value.detach() for name, value in whole.engine.model.named_parameters()}
    for kind, tensors in theirs.items():
        for name, value in tensors.items():
            rows = (shards if kind == "model" else parts.optimizer).rows[name]
            if not torch.equal(rows.cut(value), ours[kind][name]):
                found.append(f"{kind} of {name}")
    for name, value in theirs["model"].items():
        again = shards.to_leader(name)
        if world.leads and not torch.equal(again, value):
            found.append(f"{name}, put together")
    held = sum(value.numel() for value in ours["weights"].values())
    if held > 0.75 * sum(value.numel() for value in theirs["weights"].values()):
        found.append(f"{held} values are held: nothing was sharded")
    return found[:5]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharding")
    write_split(folder / "train", 40, 1)
    for name, (family, constraint, _, changes) in CASES.items():
        write_start(folder / name, family, constraint, changes)
    return folder


def test_every_map_cone_and_precision_gives_the_same_bits(place: Path, tmp_path: Path) -> None:
    for found in together(train_both, 2, tmp_path, place, list(CASES)):
        assert found == {name: [] for name in CASES}


def test_four_processes_do_too_and_three_without_the_tree_come_close(place: Path, tmp_path: Path) -> None:
    names = ["softplus", "strict"]
    for found in together(train_both, 4, tmp_path / "exact", place, names):
        assert found == {name: [] for name in names}
    for found in together(losses_of_fast, 3, tmp_path / "fast", place):
        assert found["apart"] == pytest.approx(found["alone"], rel=1e-6)
        assert 0 < abs(found["rounded"] - found["alone"]) < 1e-2  # gradients that travel as bf16 are rounder


def losses_of_fast(world: Any, place: Path) -> dict[str, float]:
    """The last loss of a run with ``reduction: fast``: alone, on shards, and with compressed gradients."""
    found = {}
    for key, more in (("apart", {}), ("rounded", {"compression": "bf16"})):
        whole, parts = _pair(world, place / "square", CASES["square"][1], {"reduction": "fast", **more}, place)
        found |= {"alone": whole.seen[-1][0], key: parts.seen[-1][0]}
    return found


def test_parts_that_need_not_have_the_bits_of_the_whole_are_refused(tmp_path: Path) -> None:
    write_split(tmp_path / "train", 40, 1)
    write_start(tmp_path / "odd", "gpt_neox", BOTH, {"intermediate_size": 259})
    write_start(tmp_path / "threads", "gpt_neox", {}, {})
    for found in together(refusal, 2, tmp_path / "together", tmp_path):
        assert "8288 values, which is no multiple of 64" in found["odd"]
        assert "training.threads is 2" in found["threads"]


def refusal(world: Any, place: Path) -> dict[str, str]:
    """What building a sharded run says about an odd width, and about threads."""
    from isotone.config.constraint import Constraint
    from isotone.config.training import Training
    from isotone.training.sharding.build import sharded
    from isotone.training.supervision.outcome import ResourceError

    found = {}
    for key, constraint, more in (("odd", BOTH, {}), ("threads", {}, {"threads": 2})):
        with pytest.raises(ResourceError) as error:
            sharded(place / key, Constraint(**constraint), Training(length=LENGTH, **more), world, teacher=None)
        found[key] = str(error.value)
    return found
