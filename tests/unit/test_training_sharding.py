"""Sharding changes no bit: weights, latents, moments, norms and losses against the unsharded run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.resume.tiny import LENGTH, VOCABULARY, write_split
from tests.unit.sharded import together

STEPS = 3
BOTH = {"scope": "mlp_both", "start": "abs", "learning_rate_scale": "auto"}
GATED = {"scope": "gated_all", "start": "abs", "map": "softplus"}
BF16 = {"precision": "bf16"}
# name: (family, constraint, training, changes of the model)
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "none": ("gpt_neox", {}, {}, {}),
    "softplus": ("gpt_neox", BOTH, BF16, {"vocab_size": 67, "intermediate_size": 70}),  # nothing divides by 2 or 4
    "exp": ("gpt_neox", BOTH | {"map": "exp", "weight_decay_on": "weight"}, {"gradient_checkpointing": True}, {}),
    "square": ("gpt_neox", BOTH | {"map": "square"}, {"clip": 0.0}, {}),
    "abs": ("gpt_neox", BOTH | {"map": "abs", "weight_decay_on": "weight"}, {"clip": 0.01}, {}),
    "project": ("gpt_neox", BOTH | {"map": "project"}, BF16 | {"gradient_checkpointing": True}, {}),
    "sign_frozen": ("gpt_neox", {"scope": "mlp_both", "map": "sign_frozen"}, {}, {}),
    "free": ("gpt_neox", {"scope": "mlp_both", "map": "free"}, {}, {}),
    "no_ffn": ("gpt_neox", {"start": "no_ffn"}, {}, {}),
    "strict": ("gpt_neox", BOTH | {"cone": "strict"}, {"clip": 0.1}, {"intermediate_size": 72}),
    "strict, stored the other way": ("gpt2", BOTH | {"cone": "strict"}, BF16, {}),
    "lift": ("gpt_neox", {"scope": "mlp_both", "start": "lift"}, BF16, {}),
    "monotone activation": ("gpt_neox", BOTH | {"activation": "clamp"}, {}, {}),
    "dropout": ("gpt_neox", BOTH, {}, {"hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "gated, tied": ("llama", GATED, {}, {"tie_word_embeddings": True, "vocab_size": 67}),
    "fp16": ("gpt_neox", BOTH, {"precision": "fp16"}, {}),
}


def _architecture(family: str, **changes: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

    common = {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt2":
        size = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 64}
        return GPT2LMHeadModel(GPT2Config(**(common | size | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} | changes)))
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
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
    from isotone.training.progress import Progress

    gather.deal(leaf)
    seen = []
    for step in range(STEPS):
        tokens, loss = gather(Progress(step=step, leaf=leaf), optimizer.flat)
        norms = optimizer.finish_gradients(1 / (tokens * engine.loss_scale))
        optimizer.update(1e-2, norms)
        seen.append([loss, norms])
    gather.close()
    return seen


def train_both(world: Any, place: Path, names: list[str], **more: Any) -> dict[str, list[str]]:
    """Train each case unsharded and sharded; what differs between the two, by case."""
    found = {}
    for name in names:
        try:
            found[name] = _differences(world, place, *CASES[name][1:3], folder=place / name, more=more)
        except Exception as error:
            error.add_note(f"in case {name!r}")
            raise
    return found


def _differences(world: Any, place: Path, constraint: Any, training: Any, *, folder: Path, more: Any) -> list[str]:
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
    run = Training(**({"global_batch": 16, "leaf": 2, "length": LENGTH, "learning_rate": 1e-2} | training | more))
    decay_weight, blocks = settings.weight_decay_on == "weight", Blocks(TokenSplit.open(place / "train"), LENGTH)

    model = load_model(folder)
    guard_precision(model, settings)
    optimizer = Optimizer(model, weight_maps(model, settings), run, decay_weight=decay_weight)
    engine = Engine(model, run, torch.device("cpu"), None)
    alone = World(torch.device("cpu"))
    gather = Gatherer(run, Operation(), 5, alone, engine, blocks, lambda *_, **__: None)  # type: ignore[arg-type]
    whole = _steps(gather, optimizer, engine, run.leaf)
    score = float(engine.score(*(torch.from_numpy(part) for part in blocks.batch([0, 1]))))

    parts = sharded(folder, settings, run, world, teacher=None)
    sharded_gather = parts.gatherer(Operation(), 5, blocks, lambda *_, **__: None)
    shards = parts.optimizer.shards
    seen = _steps(sharded_gather, parts.optimizer, parts.engine, run.leaf)
    found = [] if seen == whole else [f"losses or norms: {seen} instead of {whole}"]
    if float(parts.engine.score(*(torch.from_numpy(part) for part in blocks.batch([0, 1])))) != score:
        found.append("validation")
    if parts.optimizer.scales != optimizer.scales:
        found.append("scales")
    ours, theirs = parts.optimizer.state(), optimizer.state()
    ours["model"], theirs["model"] = shards.local, {name: value.detach() for name, value in model.named_parameters()}
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


@pytest.mark.parametrize("size", [2, 4])
def test_every_map_cone_and_precision_gives_the_same_bits(place: Path, tmp_path: Path, size: int) -> None:
    for found in together(train_both, size, tmp_path, place, list(CASES)):
        assert found == dict.fromkeys(CASES, [])
