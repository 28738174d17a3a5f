"""Every row of the table of families, on a small random model of it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace

import models_zoo as zoo
import numpy as np
import pytest
import torch
from isotone.config.constraint import Constraint
from isotone.config.training import Training
from isotone.constraints import certify, constrain, scopes_of, weight_maps, whole_maps
from isotone.constraints.comparable import comparable_pair, vacuous
from isotone.constraints.lift import fold_gain
from isotone.constraints.scopes import constrained
from isotone.errors import ConfigurationError
from isotone.evaluation.perplexity import rolling
from isotone.evaluation.scoring import Scorer
from isotone.models import (
    embedding_of,
    families,
    family_of,
    head_of,
    hidden_states,
    load_model,
    save_model,
    token_vectors,
)
from isotone.models.compatible import older_keys
from isotone.models.family import Logits, context_of, longrope_border
from isotone.models.forward import check_agreement
from isotone.training.optimizer import Optimizer
from scipy.optimize import linprog

IDS = zoo.random_ids(2, 17)
ALL_DECODERS = [*zoo.DECODERS, *zoo.LATER]


def whole_path(model):
    """The scope that covers a whole feed-forward net."""
    return "gated_all" if family_of(model).gated else "mlp_both"


@pytest.mark.parametrize("family", ALL_DECODERS)
def test_hidden_states_and_head_give_the_models_own_logits(family):
    model = zoo.tiny(family)
    own = model(IDS).logits
    logits = head_of(model).logits(hidden_states(model, IDS))
    torch.testing.assert_close(logits, own, rtol=0, atol=1e-5)
    embedded = hidden_states(model, inputs_embeds_BTD=embedding_of(model)(IDS))
    torch.testing.assert_close(embedded, hidden_states(model, IDS), rtol=0, atol=1e-6)
    torch.testing.assert_close(token_vectors(embedding_of(model))[IDS], embedding_of(model)(IDS))
    assert check_agreement(model, IDS) < 1e-5
    assert context_of(model.config) == 64


@pytest.mark.parametrize("family", ["granite", "cohere", "gemma2", "gemma3_text"])
def test_a_row_that_forgets_what_follows_the_projection_is_noticed(family, monkeypatch):
    monkeypatch.setitem(families.FAMILIES, family, replace(families.FAMILIES[family], logits=Logits()))
    with pytest.raises(ConfigurationError, match=r"differ by .* scaled, capped or shifted"):
        check_agreement(zoo.tiny(family), IDS)


@pytest.mark.parametrize("family", zoo.LATER)
def test_the_norm_is_what_the_net_reads_and_what_it_does_is_in_the_table(family):
    model = zoo.tiny(family)
    row, seen = family_of(model), {}
    for sublayer in row.sublayers(model):
        assert (sublayer.norm is None) == (family in zoo.NO_NORM_IN_FRONT)
        if sublayer.norm is None:
            continue
        sublayer.norm.register_forward_hook(lambda _m, _i, out, k=sublayer.layer: seen.update({("norm", k): out}))
        for reader in (*(entry.module for entry in sublayer.entrances), *sublayer.beside):
            reader.register_forward_hook(
                lambda _m, inputs, _o, k=sublayer.layer, r=reader: seen.update({(r, k): inputs[0]}), always_call=True
            )
    model(IDS)
    for sublayer in row.sublayers(model):
        if sublayer.norm is None:
            continue
        for reader in (*(entry.module for entry in sublayer.entrances), *sublayer.beside):
            norm, read = seen["norm", sublayer.layer], seen[reader, sublayer.layer]
            assert torch.equal(norm.flatten(0, -2), read.flatten(0, -2))
        x = torch.randn(6, zoo.WIDTH)
        centred = bool((sublayer.norm(x + 3.0) - sublayer.norm(x)).abs().max() < 1e-4)
        assert centred == row.centring(model) == (family in zoo.ALL_CENTRING)
        # the gain of the table is what the norm applies to a vector of length sqrt(D) and sum zero
        u = torch.ones(zoo.WIDTH)
        u[::2] = -1.0
        shift = 0.0 if sublayer.shift is None else sublayer.shift
        torch.testing.assert_close(sublayer.norm(u), sublayer.gain * u + shift, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", zoo.LATER)
def test_every_scope_is_constrained_exported_and_read_back(family, tmp_path):
    plain = zoo.tiny(family)
    for scope in scopes_of(family_of(plain)):
        model, settings = copy.deepcopy(plain), Constraint(scope=scope, init="abs")
        before = {
            projection.weight_name: projection.parameter.detach().clone() for projection in constrained(model, settings)
        }
        constrain(model, settings)
        inside = constrained(model, settings)
        assert (
            len(inside)
            == 2 * {"mlp_in": 1, "mlp_both": 2, "mlp_in_attn_out": 2, "gated_updown": 2, "gated_all": 3}[scope]
        )
        for projection in inside:
            wanted = projection.oriented(projection.part(before[projection.weight_name])).abs().clamp_min(1e-4)
            torch.testing.assert_close(projection.weight_OI, wanted, rtol=1e-5, atol=1e-7)
        changed = {
            name for name, value in plain.named_parameters() if not torch.equal(value, model.get_parameter(name))
        }
        assert changed == set(before)
        save_model(model, None, tmp_path / scope)
        torch.testing.assert_close(load_model(tmp_path / scope)(IDS).logits, model(IDS).logits, rtol=0, atol=0)


@pytest.mark.parametrize("family", zoo.LATER)
def test_a_certificate_says_what_the_family_allows(family):
    model = zoo.tiny(family)
    settings = Constraint(scope=whole_path(model), init="abs")
    found = certify(constrain(model, settings), settings, IDS)
    relu = family in ("nemotron", "persimmon")  # relu squared: monotone
    assert found["verdict"] == ("certified" if relu else "conditional")
    assert found["vacuous"] == (family in zoo.ALL_CENTRING)
    layer = found["layers"][0]
    assert layer["output_space"].startswith("the net's own") == (family in ("olmo2", "gemma2", "gemma3_text"))
    assert layer["input_space"].endswith("residual stream") == (family == "olmo2")
    assert layer["experts"] == (4 if family in zoo.EXPERTS else 0)
    assert (
        layer["negatives"] == 0 and layer["entries"] == sum(p.stored.numel() for p in constrained(model, settings)) / 2
    )
    if relu:
        assert layer["violations"] == layer["far"]["violations"] == 0
    elif family not in zoo.EXPERTS:
        assert found["ordered_pairs"]["far"]["violations"] > 0


@pytest.mark.parametrize("family", [*zoo.ALL_CENTRING, "llama", "gemma2", "gemma3_text", "olmo2", "phi3", "t5"])
def test_comparable_inputs_are_constructed_where_they_exist(family):
    model = zoo.tiny(family)
    row = family_of(model)
    sublayer = row.sublayers(model)[0]
    centring = row.centring(model)
    assert centring == (family in zoo.ALL_CENTRING)
    if centring:  # no pair: whatever d sums to zero, g * d cannot be non-negative without being zero
        gain = torch.ones(zoo.WIDTH) if sublayer.gain is None else sublayer.gain
        assert vacuous(sublayer, centring) and comparable_pair(sublayer, centring) is None
        g = gain.numpy().astype(float)
        bound = linprog(-g, A_ub=-np.diag(g), b_ub=np.zeros(len(g)), A_eq=[np.ones(len(g))], b_eq=[0], bounds=(-1, 1))
        assert bound.status == 0 and abs(bound.fun) < 1e-9
        if sublayer.gain is None:
            return
        sublayer.norm.weight.data[3] = -1.0 - sublayer.gain_offset
    assert not vacuous(sublayer, centring)
    low, high = comparable_pair(sublayer, centring)
    if sublayer.norm is not None:
        norm = copy.deepcopy(sublayer.norm).double()
        low, high = norm(low).detach(), norm(high).detach()
    assert bool((high >= low - 1e-3).all()) and float((high - low).max()) > 0.1


def test_a_gain_of_zero_makes_inputs_comparable_too():
    model = zoo.tiny("gpt_neox")
    sublayer = family_of(model).sublayers(model)[0]
    sublayer.norm.weight.data[5] = 0.0
    low, high = (sublayer.norm(point.float()).detach() for point in comparable_pair(sublayer, True))
    assert bool((high >= low - 1e-4).all()) and float((high - low).max()) > 0.1
    sublayer.norm.weight.data.abs_().add_(0.1).neg_()
    assert vacuous(sublayer, True)  # all of one sign: nothing is comparable


def test_a_certificate_heeds_the_signs_of_gains():
    model = zoo.tiny("gpt_neox")
    settings = Constraint(scope="mlp_both", init="abs")
    for sublayer in family_of(model).sublayers(model):
        sublayer.norm.weight.data[3] = -1.0
    constrain(model, settings)
    assert not certify(model, settings, IDS)["vacuous"]
    lifted = Constraint(scope="mlp_both", init="lift")  # which folds the gains into the weights, and leaves ones
    assert certify(constrain(zoo.tiny("gpt_neox"), lifted), lifted, IDS)["vacuous"]


@pytest.mark.parametrize("family", [*zoo.ALL_CENTRING])
def test_a_lift_changes_no_logit_of_a_family_that_centres(family):
    model = zoo.tiny(family).double()
    settings = Constraint(scope=whole_path(model), init="lift", map="project")
    if family == "stablelm":  # its norms have biases, its nets have none that could take them
        with pytest.raises(ConfigurationError, match="no bias"):
            constrain(copy.deepcopy(model), settings)
        for name, value in model.named_parameters():
            if "layernorm.bias" in name:
                value.data.zero_()
    own = model(IDS).logits
    constrain(model, settings, IDS)
    assert all(float(projection.weight_OI.min()) >= 0.9e-4 for projection in constrained(model, settings))
    torch.testing.assert_close(model(IDS).logits, own, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "more",
    [{"parallel_attn": False}, {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 2, "num_kv_heads": 2}],
)
def test_a_falcon_with_other_norms_is_read_right(more):
    model = zoo.tiny("falcon", **more)
    own = model(IDS).logits
    settings = Constraint(scope="mlp_both", init="lift", map="project")
    assert not family_of(model).sublayers(model)[0].beside
    torch.testing.assert_close(constrain(model, settings, IDS)(IDS).logits, own, rtol=0, atol=2e-3)


def test_folding_a_shared_norm_keeps_attention():
    model = zoo.tiny("gptj").double()  # its queries, keys and values have no biases
    own = model(IDS).logits
    for sublayer in family_of(model).sublayers(model):
        fold_gain(sublayer)
        assert torch.equal(sublayer.gain, torch.ones_like(sublayer.gain)) and bool(sublayer.shift.any())
    torch.testing.assert_close(model(IDS).logits, own, rtol=0, atol=1e-9)


def test_a_fused_matrix_is_constrained_in_its_own_part_alone():
    model = zoo.tiny("phi3")
    settings = Constraint(scope="gated_updown", init="abs", learning_rate_scale="auto")
    name = "model.layers.0.mlp.gate_up_proj.weight"
    gate = model.get_parameter(name).detach()[:48].clone()
    constrain(model, settings)
    assert torch.equal(model.get_parameter(name)[:48], gate) and bool((model.get_parameter(name)[48:] > 0).all())
    training = Training(learning_rate=1e-2, weight_decay=0.0)
    maps = weight_maps(model, settings)
    free = copy.deepcopy(model)
    constrained_step = Optimizer(model, maps, training, decay_weight=False)
    plain_step = Optimizer(free, {}, training, decay_weight=False)
    up = model.get_parameter(name).detach()[48:].clone()
    for optimizer, each in ((constrained_step, model), (plain_step, free)):
        head_of(each).logits(hidden_states(each, IDS)).square().mean().backward()
        optimizer.update(1e-2, optimizer.finish_gradients(1.0))
    moved = model.get_parameter(name).detach()
    torch.testing.assert_close(moved[:48], free.get_parameter(name).detach()[:48], rtol=1e-4, atol=1e-5)
    assert bool((moved[48:] > 0).all()) and float((moved[48:] != up).float().mean()) > 0.9
    whole = weight_maps(zoo.tiny("phi3"), Constraint(scope="gated_all", init="abs"))[name]
    assert whole.coordinates.side == "" and not hasattr(whole, "share")


@pytest.mark.parametrize("map_", ["softplus", "exp", "square", "abs", "project"])
def test_the_map_of_a_part_is_inverted_and_pulled_back(map_):
    model = constrain(zoo.tiny("phi3"), Constraint(scope="gated_updown", init="abs", map=map_)).double()
    name = "model.layers.0.mlp.gate_up_proj.weight"
    mapping = weight_maps(model, Constraint(scope="gated_updown", init="abs", map=map_, learning_rate_scale="auto"))[
        name
    ]
    weight = model.get_parameter(name).detach()
    latent = mapping.inverse(weight)
    torch.testing.assert_close(mapping.forward(latent), weight)
    moving = latent.clone().requires_grad_()
    factor = torch.randn_like(weight)
    if map_ != "project":  # whose slope is taken behind the step
        shown = mapping.share.of(moving) * mapping.scale
        value = mapping.inner.element.forward(shown)
        (slope,) = torch.autograd.grad((value * mapping.share.of(factor)).sum(), moving)
        torch.testing.assert_close(mapping.share.of(mapping.pull_back(latent, factor)), mapping.share.of(slope))
    assert torch.equal(mapping.pull_back(latent, factor)[:48], factor[:48])
    assert torch.equal(mapping.decayed(latent, 0.5)[:48], weight[:48] * 0.5)
    torch.testing.assert_close(mapping.forward(mapping.decayed(latent, 0.5)), weight * 0.5)


def test_a_matrix_constrained_in_one_part_is_refused_where_rows_are_dealt_out():
    assert len(whole_maps(zoo.tiny("phi3"), Constraint(scope="gated_all", init="abs"))) == 4
    with pytest.raises(ConfigurationError, match=r"takes one part of .*gate_up_proj\.weight"):
        whole_maps(zoo.tiny("phi3"), Constraint(scope="gated_updown", init="abs"))


@pytest.mark.parametrize("family", zoo.EXPERTS)
def test_starts_that_look_at_single_matrices_refuse_stacked_experts(family):
    for start in ("nnls", "nnls_block"):
        with pytest.raises(ConfigurationError, match=r"experts .* stacked"):
            constrain(zoo.tiny(family), Constraint(scope="gated_all", init=start), IDS)


@pytest.mark.parametrize("family", ["phi3", "gemma2", "nemotron", "olmo2"])
@pytest.mark.parametrize("start", ["nnls", "nnls_block"])
def test_fitted_starts_beat_the_absolute_value(family, start):
    teacher = zoo.tiny(family)
    scope = "gated_updown" if family_of(teacher).gated else "mlp_both"
    wanted = hidden_states(teacher, IDS)

    def error(settings):
        model = constrain(copy.deepcopy(teacher), settings, IDS)
        assert all(float(projection.weight_OI.min()) >= 0 for projection in constrained(model, settings))
        return float((hidden_states(model, IDS) - wanted).square().mean())

    assert error(Constraint(scope=scope, init=start, map="project")) < error(Constraint(scope=scope, init="abs"))


@pytest.mark.parametrize("family", ["bloom", "mpt"])
def test_an_activation_that_no_key_names_cannot_be_replaced(family):
    with pytest.raises(ConfigurationError, match="no key that could name another"):
        constrain(zoo.tiny(family), Constraint(scope="mlp_both", init="abs", activation="relu"))


@pytest.mark.parametrize("family", ["gemma2", "phi3", "falcon", "gptj", "qwen3_moe"])
def test_a_replaced_activation_is_exported(family, tmp_path):
    model = zoo.tiny(family)
    settings = Constraint(scope=whole_path(model), init="abs", activation="clamp")
    constrain(model, settings)
    save_model(model, None, tmp_path / "m")
    again = load_model(tmp_path / "m")
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits, rtol=0, atol=0)
    assert family_of(again).activation_of(again.config).startswith("isotone_")


@pytest.mark.parametrize("family", ALL_DECODERS)
def test_flips_equal_plain_forward_passes(family):
    scorer = Scorer(zoo.tiny(family), 0)
    ids = zoo.random_ids(2, 60)
    rows, places, tokens = np.array([0, 0, 1]), np.array([5, 33, 58]), np.array([7, 8, 9])
    changed = ids[torch.from_numpy(rows)].clone()
    changed[torch.arange(3), torch.from_numpy(places)] = torch.from_numpy(tokens)
    fast = scorer.flips(ids, scorer.texts(ids), rows, places, tokens)
    torch.testing.assert_close(fast, scorer.texts(changed), rtol=0, atol=1e-4)


def test_an_unknown_family_is_described():
    model = zoo.tiny("gpt2")
    model.config.model_type = "mamba"
    with pytest.raises(
        ConfigurationError, match=r'"mamba".*gpt_neox.*transformer\.h\.\*.*mlp\.c_fc \(Conv1D\).*centres'
    ):
        family_of(model)
    assert set(families.FAMILIES) == set(zoo.FAMILIES)


ROPES = {
    "llama": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    "mistral": {"rope_type": "default", "rope_theta": 1e6},
    "qwen3": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32},
    "gpt_neox": {"rope_type": "default", "rope_theta": 40000.0, "partial_rotary_factor": 0.5},
    "phi": {"rope_type": "linear", "rope_theta": 2e4, "partial_rotary_factor": 0.25, "factor": 2.0},
    "gemma3_text": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        "full_attention": {"rope_type": "linear", "rope_theta": 2e6, "factor": 8.0},
    },
}  # fmt: skip
# What transformers 4.57.3 reads; that it then computes the same logits was seen once for each family, by hand.
OLDER = {
    "llama": {"rope_theta": 5e5, "rope_scaling": {k: v for k, v in ROPES["llama"].items() if k != "rope_theta"}},
    "mistral": {"rope_theta": 1e6},
    "qwen3": {"rope_theta": 1e6, "rope_scaling": {k: v for k, v in ROPES["qwen3"].items() if k != "rope_theta"}},
    "gpt_neox": {"rotary_emb_base": 40000.0, "rotary_pct": 0.5},
    "phi": {"rope_theta": 2e4, "partial_rotary_factor": 0.25, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "gemma3_text": {"rope_theta": 2e6, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
}  # fmt: skip


@pytest.mark.parametrize("family", ROPES)
def test_older_transformers_finds_its_own_keys(family, tmp_path):
    model = zoo.tiny(family, rope_parameters=ROPES[family])
    save_model(model, None, tmp_path / "m")
    written = json.loads((tmp_path / "m/config.json").read_text())
    for key, value in OLDER[family].items():
        assert written[key] == value, key
    assert older_keys(written) == {}
    again = load_model(tmp_path / "m")
    assert again.config.rope_parameters == model.config.rope_parameters
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits, rtol=0, atol=0)
    save_model(again, None, tmp_path / "n")
    assert (tmp_path / "n/config.json").read_bytes() == (tmp_path / "m/config.json").read_bytes()


def test_the_table_is_printed_without_torch(capsys):
    from isotone.commands import families as command

    command.run(None)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + len(families.FAMILIES)
    assert [line.split()[0] for line in printed[1:]] == list(families.FAMILIES)
    by_name = dict(zip(families.FAMILIES, command.table()[1:], strict=True))
    assert by_name["olmo2"][1] == "RMSNorm behind, none in front" and by_name["mpt"][3] == "always gelu"
    assert by_name["nemotron"][1] == "LayerNorm, gain 1 + w" and by_name["phi3"][2] == "gated, fused"
    light = "import isotone.models, isotone.commands.families, isotone.planning.preflight, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light], check=False).returncode == 0


WINDOWS = {
    "below the text": ("mistral", {"sliding_window": 16}),
    "just below": ("mistral", {"sliding_window": 48}),
    "all layers": ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}),
    "some layers": ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "gemma2": ("gemma2", {"sliding_window": 16}),
    "gemma3": ("gemma3_text", {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}),
    "phi3": ("phi3", {"sliding_window": 16}),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_flips_under_sliding_windows_equal_plain_forward_passes(name):
    family, more = WINDOWS[name]
    scorer = Scorer(zoo.tiny(family, **more), 0)
    ids = zoo.random_ids(2, 60)
    rows, places, tokens = np.array([0, 0, 1]), np.array([20, 33, 58]), np.array([7, 8, 9])
    changed = ids[torch.from_numpy(rows)].clone()
    changed[torch.arange(3), torch.from_numpy(places)] = torch.from_numpy(tokens)
    nll = scorer.texts(ids)
    torch.testing.assert_close(scorer.flips(ids, nll, rows, places, tokens), scorer.texts(changed), rtol=0, atol=1e-4)
    whole = Scorer(zoo.tiny(family, **more | {"sliding_window": 4096}), 0)
    assert float((whole.texts(ids) - nll).abs().max()) > 1e-3  # the window does matter here


def test_texts_on_both_sides_of_a_longrope_border_never_share_a_batch():
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 32}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, **factors}
    model = zoo.tiny("llama", rope_parameters=rope)
    generator = np.random.default_rng(0)
    texts = [generator.integers(1, 300, length) for length in (20, 30, 31, 32, 33, 34, 40, 60)]
    windows = [rolling(ids, 64, 0)[0] for ids in texts]
    together = Scorer(model, 0, batch=8).windows(windows)
    alone = np.array([float(Scorer(model, 0, batch=1).windows([window])[0]) for window in windows])
    np.testing.assert_allclose(together, alone, atol=1e-3)
    assert longrope_border(model.config) == 32 and longrope_border(zoo.tiny("llama").config) == 0
