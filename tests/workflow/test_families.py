"""A small random model of each kind of decoder-only family goes from its folder to the report.

GPT-NeoX, from scratch, is the smoke study itself (see conftest.finished); here is one family of each kind. A study costs
about a minute of processor time, nearly all of it imports, so that the other families are tested function by function
(tests/unit/test_families.py), and only some make a control.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from isotone.models import save_model

from tests.unit.models_zoo import tiny, tiny_tokenizer
from tests.workflow.conftest import copy_checkout, run

# Scope, start and norm of the constrained arm: a lift where the family allows one.
PLAIN = {"scope": "mlp_both", "init": "lift"}
ROTATED = {"scope": "gated_all", "init": "lift", "norm": "rotate_center"}
CONSTRAINTS = {
    "gpt2": PLAIN,
    "llama": ROTATED,
    "gemma2": {"scope": "gated_all", "init": "relu"},  # capped logits, gain 1 + w, eager attention
    "qwen3_moe": {"scope": "gated_all", "init": "abs"},  # stacked experts
}
MODELS = {"llama": {"rms_norm_eps": 1e-5}}  # the epsilon of the norm that rotating leads to
CONTROLLED = {"gemma2"}  # a gauge lift keeps the function, so that it has no control
STEPS = 12
SECONDS = 1500  # on a machine that has other things to do


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(root, tmp_path_factory.mktemp("families") / "checkout")


def study_of(family: str, model: Path) -> dict[str, Any]:
    """The smoke study with the fewest jobs that still pass through every stage."""
    return {
        "study": family.replace("_", "-"),
        "seeds": [42],
        "model": {"source": "local", "path": str(model)},
        "data": {
            "source": "embedded",
            "documents": 40,
            "splits": {"train": 0.4, "validation": 0.1, "test": 0.1, "attack_search": 0.2, "attack_test": 0.2},
        },
        "training": {
            "max_steps": STEPS, "global_batch": 8, "micro_batch_size": 8, "length": 32, "learning_rate": 3.0e-3, "validation_blocks": 8,
        },
        "arms": {"baseline": {}, "constrained": {"constraint": CONSTRAINTS[family] | {"map": "softplus"}}},
        "perplexity": {"protocols": ["document"], "length": 32, "documents": 4},
        "attacks": {
            "run": ["hotflip"],
            "shared": {"documents": 4, "search_documents": 4, "window": 24, "fresh_starts": 2},
            "hotflip": {"flips": 2, "candidates": 4},
        },
        "controls": {"kinds": ["tempered"] if family in CONTROLLED else [], "attacks": ["hotflip"]},
        "report": {"resamples": 1000},
    }  # fmt: skip


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("family", CONSTRAINTS)
def test_a_family_goes_from_its_folder_to_the_report(checkout: Path, tmp_path: Path, family: str) -> None:
    save_model(tiny(family, **MODELS.get(family, {})), tiny_tokenizer(), tmp_path / "model")
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(study_of(family, tmp_path / "model")))
    options = ["--profile", "profiles/local", "--cores", "1", "--configfile", str(config)]
    done = run(checkout, "-m", "snakemake", *options, seconds=SECONDS)
    study = checkout / "results" / family.replace("_", "-")
    logs = "".join(path.read_text()[-800:] for path in (study / "logs").rglob("*.log")) if done.returncode else ""
    assert done.returncode == 0, done.stderr[-2000:] + logs

    def result(name: str) -> dict[str, Any]:
        return json.loads((study / name).read_text())["result"]

    base, fitted = result("runs/baseline/seed-42/train.json"), result("runs/constrained/seed-42/train.json")
    for trained in (base, fitted):
        assert trained["steps"] == STEPS and trained["final_loss"] < trained["start_loss"]
    certificate = json.loads((study / "runs/constrained/seed-42/certificate.json").read_text())
    constrained = [layer for layer in certificate["layers"] if layer["entries"]]
    assert constrained and all(layer["negatives"] == 0 for layer in constrained)
    if CONSTRAINTS[family]["init"] == "lift":  # which changes no output; centring drops one of 32 directions
        assert fitted["start_loss"] == pytest.approx(
            base["start_loss"], abs=2e-3 if CONSTRAINTS[family] is PLAIN else 2e-2
        )
    else:  # a random model may lose or gain by it
        assert abs(fitted["start_loss"] - base["start_loss"]) > 1e-4

    found = json.loads((study / "final_results.json").read_text())["results"]
    for arm in ("baseline", "constrained", *(["constrained~tempered"] if family in CONTROLLED else [])):
        J = found["damage"][arm]["hotflip"]["greedy"]["J"] if arm in found["damage"] else None
        assert (J is not None and math.isfinite(J["value"])) or f"{arm}/seed-42" in found["unavailable"]
    page = (study / "report.html").read_text()
    assert "constrained" in page and 'id="table-quality"' in page
