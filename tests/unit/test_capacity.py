from __future__ import annotations

import pytest
from isotone.config.data import Architecture, Model
from isotone.config.training import Training
from isotone.errors import ConfigurationError
from isotone.models.origins.scratch import configuration_of
from isotone.planning.capacity import GIB, KNOWN, check_fits, check_machine, shape_of, shape_of_config, training_memory

from tests.unit.models_zoo import DECODERS, tiny

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
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_shapes_have_the_published_number_of_parameters(name):
    assert KNOWN[name].parameters == PUBLISHED[name]


@pytest.mark.parametrize("family", DECODERS)
def test_the_formula_counts_a_real_model(family):
    model = tiny(family)
    counted = sum(parameter.numel() for parameter in model.parameters())
    formula = shape_of_config(model.config.to_dict()).parameters
    tolerance = 0 if family in ("gpt_neox", "llama", "mistral", "qwen2") else 0.2  # positions, norms without weights
    assert formula == pytest.approx(counted, rel=tolerance, abs=0)


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


def test_what_fits_nowhere_is_refused_with_the_arithmetic():
    shape = KNOWN["meta-llama/Llama-3.1-8B"]
    with pytest.raises(ConfigurationError, match=r"8\.03 billion parameters x 18\.8 bytes .* = 141 GiB .* has 80 GiB"):
        check_fits(shape, Training(), 80 * GIB, "an H100")
    assert check_fits(shape, Training(), 192 * GIB, "a B200").state < 192 * GIB


def test_the_profiles_device_comes_before_this_machines(monkeypatch):
    shape = KNOWN["EleutherAI/pythia-6.9b"]
    monkeypatch.setenv("ISOTONE_DEVICE_GIB", "141")
    check_machine(shape, [("small", 8 * GIB)])
    monkeypatch.setenv("ISOTONE_DEVICE_GIB", "80")
    with pytest.raises(ConfigurationError, match="device of the profile"):
        check_machine(shape, [])
    monkeypatch.setenv("ISOTONE_DEVICE_GIB", "much")
    with pytest.raises(ConfigurationError, match="Say how many GiB"):
        check_machine(shape, [])
    monkeypatch.delenv("ISOTONE_DEVICE_GIB")
    with pytest.raises(ConfigurationError, match="small"):
        check_machine(shape, [("small", 8 * GIB)])
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    check_machine(shape, [])  # a job beside the nodes that will train


def test_an_unknown_model_says_how_to_learn_its_size():
    with pytest.raises(ConfigurationError, match="until setup"):
        shape_of(Model(source="hub", name="someone/something", revision="v1"))
