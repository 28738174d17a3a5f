from __future__ import annotations

import pytest
import yaml
from isotone.schema import merge
from isotone.studies.study import read_study


def study(root, *names):
    merged = {}
    for name in names:
        merged = merge(merged, yaml.safe_load((root / "config" / name).read_text()))
    return read_study(merged, "+".join(names))


@pytest.mark.parametrize("base", ["pythia-1.4b.yaml", "pythia-70m.yaml", "pythia-410m.yaml"])
def test_the_published_preset_holds_the_published_settings(root, base):
    preset = study(root, base, "overlays/published.yaml")
    assert preset.study == "published" and set(preset.arms) == {"baseline", "mlp_in", "mlp_both", "mlp_in_attn_out"}
    baseline, both = preset.training_of("baseline"), preset.training_of("mlp_both")
    assert (baseline.learning_rate, baseline.epochs, baseline.warm_up) == (1e-5, 5, 0.1)
    assert (both.learning_rate, both.epochs, both.warm_up) == (5e-5, 10, 0.2)
    for training in (baseline, both):
        assert (training.weight_decay, training.max_grad_norm, training.schedule) == (0.01, 1.0, "linear")
        assert (training.global_batch, training.length, training.pure_bf16) == (32, 2048, False)
    constraint = preset.arms["mlp_both"].constraint
    assert (constraint.init, constraint.map, constraint.cone) == ("abs", "softplus", "elementwise")
    assert preset.seeds == [42, 1337, 2024, 8888, 12345]
    attacks = preset.attacks
    assert (attacks.hotflip.flips, attacks.shared.documents) == (10, 200)
    assert (attacks.uat.length, attacks.uat.restarts, attacks.uat.iterations) == (10, 3, 50)
    assert attacks.shared.search_documents == 80


def test_the_bf16_form_is_asked_for_by_name(root):
    preset = study(root, "pythia-1.4b.yaml", "overlays/published.yaml", "overlays/published-bf16.yaml")
    assert preset.study == "published-bf16" and preset.training_of("mlp_both").pure_bf16


def test_the_sweep_lies_on_the_embedded_study(root):
    sweep = study(root, "config.yaml", "overlays/sweep.yaml")
    assert sweep.study == "kjv-sweep" and sweep.seeds == [42]
    assert len(sweep.constrained_arms()) >= 6
    assert sweep.training_of("lift").epochs < study(root, "config.yaml").training_of("lift").epochs
