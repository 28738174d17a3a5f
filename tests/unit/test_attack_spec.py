"""An attack is one spec: every attack in every form reaches the report, and a new one needs one module and one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from isotone.attacks.registry import SPECS
from isotone.attacks.settings import AttackJob, Attacks
from isotone.errors import ConfigurationError
from isotone.reporting.final_results import build
from isotone.reporting.page.html import render
from isotone.reporting.page.paper import methods_tex, numbers_tex
from isotone.schema import as_mapping, parse
from isotone.studies.study import Study
from synthetic_study import Planted, study_settings, write_study

FORMS: dict[str, list[dict[str, Any]]] = {
    name: [{}] for name in SPECS
} | {
    "gcg": [{"form": "document"}, {"form": "universal"}],
    "hotflip": [{}, {"one_shot": False}, {"iterative": False}, {"published": True}],
}  # fmt: skip
CASES = [(name, form) for name, forms in FORMS.items() for form in forms]


def study_of(name: str, form: dict[str, Any]) -> Study:
    run = (*SPECS[name].combines(parse(Attacks, {name: form}).of(name)), name)
    return study_settings(
        arms=("baseline", "mlp_in"), seeds=(7, 8), attacks=run, control_attacks=run, documents=12, resamples=200, settings={name: form}
    )  # fmt: skip


@pytest.mark.parametrize(("name", "form"), CASES)
def test_every_attack_in_every_form_reaches_the_report(name: str, form: dict[str, Any], tmp_path: Path) -> None:
    study = study_of(name, form)
    spec, settings = SPECS[name], study.attacks.of(name)
    planted = Planted(damage={"mlp_in": -0.3}, seed_spread=0.0, noise=0.01)
    folder = write_study(tmp_path, study, planted)
    document = build(study, folder)
    results = document["results"]
    [verdict] = [verdict for verdict in results["verdicts"] if verdict["attack"] == name]
    assert (verdict["arm"], verdict["attack"], verdict["variant"]) == ("mlp_in", name, spec.primary(settings))
    assert verdict["controls"] == {"tempered": "more_robust", "noised": "more_robust"}
    assert verdict["word"] == "more_robust"
    claim = next(claim for claim in results["primary"] if claim["attack"] == name)
    excess = claim["outcomes"]["damage_cal"]["difference"]["value"]
    strength = results["damage"]["baseline"][name][claim["variant"]]["J"]["value"] / planted.base
    per_flip = 120 / 2 if spec.universal(settings) else 115 / 5  # two trigger tokens, or five flips
    assert excess == pytest.approx(0.3 * strength * per_flip, rel=0.15)
    assert sorted(results["damage"]["mlp_in"][name]) == sorted(spec.variants(settings))
    assert bool(results["triggers"]) == spec.universal(settings)
    assert all(gate["state"] != "not run" for gate in results["gates"]), results["gates"]
    convergence = [gate for gate in results["gates"] if gate["gate"].startswith(f"{name}: a fresh start")]
    assert bool(convergence) == bool(spec.restarted(settings))
    assert spec.sentence(settings) in methods_tex(document).replace(r"\_", "_").replace(r"\%", "%")
    assert f"{excess:.3f}" in numbers_tex(document)
    page = render(document, folder)
    assert f"{excess:.2f}" in page and ('id="triggers"' in page) == spec.universal(settings)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_spec_agrees_with_itself(name: str, form: dict[str, Any]) -> None:
    attacks = parse(Attacks, {name: form})
    spec, settings = SPECS[name], attacks.of(name)
    assert spec.name == name and spec.primary(settings) in spec.variants(settings)
    assert set(spec.restarted(settings)) <= set(spec.variants(settings))
    assert spec.flips(settings) >= 1 and (spec.cost(attacks).forward > 0 or spec.combines(settings))
    assert set(spec.reads) <= set(SPECS) and all(other in SPECS for _, other, _ in spec.beats)


def test_specs_are_read_without_torch() -> None:
    code = "import sys, isotone.studies.study; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("old", "new"), [("candidates", "search_width"), ("top", "topk")])
def test_an_old_key_of_gcg_is_answered_with_its_new_name(old: str, new: str) -> None:
    with pytest.raises(ConfigurationError, match=f'has the key "{old}", which is called "{new}" now'):
        parse(Attacks, {"gcg": {old: 16}})


def test_a_job_has_a_section_for_each_attack() -> None:
    assert set(SPECS) < set(as_mapping(AttackJob())) and set(SPECS) < set(as_mapping(Attacks()))
