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


def test_t5_has_the_papers_decoding_and_attack_and_equal_epochs(root):
    plain = study(root, "t5-small.yaml")
    trainings = [plain.training_of(arm) for arm in plain.arms]
    assert {(t.epochs, t.learning_rate, t.weight_decay, t.global_batch, t.max_grad_norm, t.precision) for t in trainings} == {
        (5, 5e-5, 0.01, 4, 1.0, "fp32")
    }  # fmt: skip
    pairs, written = plain.data.pairs, plain.generation
    assert (pairs.prefix, pairs.max_source, pairs.max_target) == ("summarize: ", 512, 128)
    assert (written.beams, written.length_penalty, written.min_new_tokens, written.max_new_tokens) == (4, 1.2, 10, 80)
    assert written.no_repeat_ngram == 3 and written.early_stopping
    assert plain.attacks.hotflip.flips == 5 and plain.attacks.hotflip.published
    unequal = study(root, "t5-small.yaml", "overlays/published-t5.yaml")
    assert unequal.study == "published-t5" and "unequal" in unequal.report.title
    assert {arm: unequal.training_of(arm).epochs for arm in unequal.arms} == {
        "baseline": 5,
        "mlp_both": 7,
        "sign_frozen": 7,
    }
    other = study(root, "t5-small.yaml", "overlays/xsum.yaml").data
    assert (other.name, other.subset, other.column, other.source_column) == (
        "EdinburghNLP/xsum",
        "",
        "summary",
        "document",
    )
    assert other.revision != plain.data.revision and len(other.revision) == 40
