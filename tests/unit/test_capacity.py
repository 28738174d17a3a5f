from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from isotone.config.data import Architecture, Model
from isotone.config.training import Training
from isotone.errors import ConfigurationError
from isotone.models.origins.scratch import configuration_of
from isotone.planning.capacity import GIB, check_fits, check_machine, training_memory
from isotone.planning.shape import KNOWN, shape_of, shape_of_config
from isotone.training.engine import Engine

from tests.resume.tiny import LENGTH, write_split
from tests.unit.models_zoo import DECODERS, tiny
from tests.unit.sharded import together
from tests.unit.test_training_sharding import write_start

RUN = {"global_batch": 32, "micro_batch_size": 2, "length": LENGTH}

# Parameter counts that the makers publish.
PUBLISHED = {
    "EleutherAI/pythia-70m": 70_426_624,
    "EleutherAI/pythia-160m": 162_322_944,
    "EleutherAI/pythia-410m": 405_334_016,
    "EleutherAI/pythia-1.4b": 1_414_647_808,
    "EleutherAI/pythia-2.8b": 2_775_208_960,
    "EleutherAI/pythia-6.9b": 6_857_302_016,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "allenai/OLMo-2-0425-1B": 1_484_916_736,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-3-1b-pt": 999_885_952,
    "microsoft/phi-2": 2_779_683_840,
    "google-t5/t5-small": 60_506_624,
}
SMALL_PARTS_LEFT_OUT = (
    "Qwen/Qwen3-0.6B",
    "allenai/OLMo-2-0425-1B",
    "google/gemma-2-2b",
    "google/gemma-3-1b-pt",
    "microsoft/phi-2",
)


@pytest.mark.parametrize("name", KNOWN)
def test_known_shapes_have_the_published_number_of_parameters(name):
    tolerance = 1e-4 if name in SMALL_PARTS_LEFT_OUT else 0  # more norms, fewer biases
    assert KNOWN[name].parameters == pytest.approx(PUBLISHED[name], rel=tolerance, abs=0)


@pytest.mark.parametrize("family", DECODERS)
def test_the_formula_counts_a_real_model(family):
    model = tiny(family)
    counted = sum(parameter.numel() for parameter in model.parameters())
    formula = shape_of_config(model.config.to_dict()).parameters
    tolerance = 0 if family in ("gpt_neox", "llama", "mistral", "qwen2") else 0.2  # positions, norms without weights
    assert formula == pytest.approx(counted, rel=tolerance, abs=0)


@pytest.mark.parametrize("family", ["t5", "t5_gated"])
def test_encoders_are_counted_too(family):
    model = tiny(family)
    shape = shape_of_config(model.config.to_dict())
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    nets = [weight.numel() for name, weight in model.named_parameters() if "DenseReluDense" in name]
    assert shape.feed_forward == sum(nets)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_scratch_encoder_and_decoder_are_counted_before_they_exist(activation):
    from transformers import AutoModelForSeq2SeqLM

    architecture = Architecture(family="t5", activation=activation)
    model = AutoModelForSeq2SeqLM.from_config(configuration_of(architecture, end=1, pad=0))
    assert shape_of(Model(architecture=architecture)).parameters == model.num_parameters()


def test_a_scratch_model_is_counted_before_it_exists():
    from transformers import AutoModelForCausalLM

    for family in ("gpt_neox", "llama"):
        architecture = Architecture(family=family)
        model = AutoModelForCausalLM.from_config(configuration_of(architecture))
        assert shape_of(Model(architecture=architecture)).parameters == model.num_parameters()


def test_memory_grows_with_the_leaf_and_shrinks_with_checkpointing():
    shape = KNOWN["EleutherAI/pythia-410m"]
    small, large = (training_memory(shape, Training(micro_batch_size=leaf, length=2048)) for leaf in (1, 8))
    kept = training_memory(shape, Training(micro_batch_size=8, length=2048, gradient_checkpointing=True))
    assert small.state == large.state == kept.state >= 16 * shape.parameters
    assert small.activations < large.activations and kept.total < large.total


@pytest.mark.parametrize(
    ("settings", "peak"),
    [
        ({"micro_batch_size": 8, "gradient_checkpointing": True}, 40.6),
        ({"micro_batch_size": 4}, 58.7),
        ({"micro_batch_size": 8}, 67.8),
    ],
)
def test_memory_is_that_of_an_h200_and_never_less(settings, peak):
    """Peaks in GiB of Pythia-1.4B's shape, global batch 32, exact, softplus: benchmarks/RESULTS.md."""
    training = Training(global_batch=32, length=2048, precision="bf16", **settings)
    assert peak <= training_memory(KNOWN["EleutherAI/pythia-1.4b"], training).total / GIB <= 1.25 * peak


def test_what_fits_nowhere_is_refused_with_the_arithmetic():
    shape = KNOWN["meta-llama/Llama-3.1-8B"]
    with pytest.raises(ConfigurationError, match=r"8\.03 billion parameters x 18\.8 bytes .* = 141 GiB .* has 80 GiB"):
        check_fits(shape, Training(), 80 * GIB, "an H100")
    assert check_fits(shape, Training(), 192 * GIB, "a B200").state < 192 * GIB
    assert check_fits(shape, Training(), 80 * GIB, "four H100", devices=4).state < 80 * GIB
    with pytest.raises(ConfigurationError, match="about 4 devices together"):
        check_fits(shape, Training(), 80 * GIB, "an H100")


def test_the_profiles_device_comes_before_this_machines(monkeypatch):
    shape = KNOWN["EleutherAI/pythia-6.9b"]
    monkeypatch.setenv("ISOTONE_DEVICE_GIB", "141")
    check_machine(shape, [("small", 8 * GIB)])
    monkeypatch.setenv("ISOTONE_DEVICE_GIB", "80")
    with pytest.raises(ConfigurationError, match="device of the profile"):
        check_machine(shape, [])
    monkeypatch.setenv("ISOTONE_DEVICES", "4")
    check_machine(shape, [])
    monkeypatch.setenv("ISOTONE_DEVICES", "none")
    with pytest.raises(ConfigurationError, match="how many devices"):
        check_machine(shape, [])
    monkeypatch.setenv("ISOTONE_DEVICE_GIB", "much")
    with pytest.raises(ConfigurationError, match="Say how many GiB"):
        check_machine(shape, [])
    monkeypatch.delenv("ISOTONE_DEVICE_GIB")
    with pytest.raises(ConfigurationError, match="small"):
        check_machine(shape, [("small", 8 * GIB)])
    check_machine(shape, [("large", 80 * GIB)] * 4)
    with pytest.raises(ConfigurationError, match="all 2 x large together"):
        check_machine(shape, [("large", 40 * GIB)] * 2)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    check_machine(shape, [])  # a job beside the nodes that will train


def test_an_unknown_model_says_how_to_learn_its_size():
    with pytest.raises(ConfigurationError, match="until setup"):
        shape_of(Model(source="hub", name="someone/something", revision="v1"))


def count_parts(world: Any, place: Path, sharded: bool) -> dict[str, int]:
    """Bytes of what one process holds after the gradients of a step."""
    from isotone.config.constraint import Constraint
    from isotone.config.training import Operation
    from isotone.constraints import weight_maps
    from isotone.data.blocks import Blocks, TokenSplit
    from isotone.models import load_model
    from isotone.training.gather import Gatherer
    from isotone.training.optimizer import Optimizer
    from isotone.training.sharding import build
    from isotone.training.state import TrainerState

    training, constraint = Training(**RUN), Constraint(scope="mlp_both", init="abs")
    blocks, silent = Blocks(TokenSplit.open(place / "train"), LENGTH), lambda *_, **__: None
    if sharded:
        parts = build.sharded(place / "start", constraint, training, world, teacher=None)
        optimizer, gather = parts.optimizer, parts.gatherer(Operation(), 0, blocks, silent)
    else:
        model = load_model(place / "start")
        optimizer = Optimizer(model, weight_maps(model, constraint), training, decay_weight=False)
        engine = Engine(model, training, torch.device("cpu"), None)
        gather = Gatherer(training, Operation(), 0, world, engine, blocks, silent)
    gather.deal(training.micro_batch_size)
    tokens, _ = gather(TrainerState(micro_batch_size=training.micro_batch_size), optimizer.flat)
    optimizer.finish_gradients(1 / tokens)
    gather.close()

    def size(tensors: Any) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    state = optimizer.state()
    buffers = [buffer for buffer in gather.tree._free if buffer is not optimizer.flat]
    return {
        "weights": size(optimizer.parameters.values()),
        "gradients": size([optimizer.flat]),
        "moments": size([*state["exp_avg"].values(), *state["exp_avg_sq"].values()]),
        "latents": size(optimizer.latents.values()),
        "latent_gradients": size([latent.grad for latent in optimizer.latents.values()]),
        "tree": size(buffers),
    }


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("family", "precision"), [("llama", "fp32"), ("llama", "bf16"), ("gpt_neox", "bf16")])
def test_activations_are_what_autograd_keeps(family, precision, checkpointing):
    """Bytes that a backward pass waits for, counted where autograd saves them."""
    model, length = tiny(family), 64
    shape = shape_of_config(model.config.to_dict())
    training = Training(micro_batch_size=4, length=length, gradient_checkpointing=checkpointing, precision=precision)
    engine = Engine(model, training, torch.device("cpu"), None)
    model.train()
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    window = torch.zeros(4, length, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = engine._hidden(model, window)  # kept alive: its storages must not be reused while we count
    assert hidden.requires_grad
    said, counted = training_memory(shape, training).activations, sum(kept.values())
    assert counted <= said, f"{counted} bytes are kept, {said} were counted on"
    assert said <= (8 if checkpointing else 2) * counted  # a layer that is computed again is not kept yet


@pytest.mark.parametrize(("processes", "sharded"), [(1, False), (2, True)])
def test_the_parts_of_a_small_run_are_those_of_the_sum(processes, sharded, tmp_path):
    """Tensors of a training step, counted one by one, against the arithmetic."""
    write_split(tmp_path / "train", 40, 1)
    write_start(tmp_path / "start", "gpt_neox", {"scope": "mlp_both", "init": "abs"}, {})
    counted = together(count_parts, processes, tmp_path / "together", tmp_path, sharded)
    shape = shape_of_config(json.loads((tmp_path / "start/config.json").read_text()))
    said = training_memory(shape, Training(**RUN), processes=processes, sharded=sharded)
    for one in counted:
        for part in ("weights", "gradients", "moments", "latents", "latent_gradients", "tree"):
            # vectors are whole everywhere, and rows are dealt out in whole numbers
            assert one[part] == pytest.approx(getattr(said, part), rel=0.06 if sharded else 0), part
