"""Studies of pairs: what they cannot do is said before any job; settings that no study of texts uses leave its digests alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models_zoo as zoo
import pytest
import yaml
from isotone.config.training import Training
from isotone.errors import ConfigurationError
from isotone.models import save_model
from isotone.planning.preflight import check_study
from isotone.schema import as_mapping, merge
from isotone.studies.study import Study, read_study
from isotone.training.engine import Engine
from isotone.training.schedule import Schedule

CONFIG = Path(__file__).resolve().parents[2] / "config"


def study(*changes: dict[str, Any], name: str = "t5-smoke") -> Study:
    found = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    for change in changes:
        found = merge(found, change)
    return read_study(found, "here")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"architecture": {"family": "gpt_neox"}}}, "gpt_neox, which has no encoder. Choose t5"),
        ({"data": {"task": "text", "pairs": {"prefix": "", "max_source": 512, "max_target": 128, "too_long": "cut"}}}, "t5, an encoder-decoder model, but data.task is text"),
        ({"model": {"source": "gguf", "path": "x.gguf"}, "controls": {"kinds": []}}, "gguf, which holds decoder-only models"),
        ({"perplexity": {"protocols": ["rolling", "document"]}}, "a target has one protocol only"),
        ({"training": {"precision": "fp16"}}, "in which T5 overflows"),
        ({"base": {"training": {"length": 32}}}, r"base.training.length is 32, but a source may have 64 tokens"),
        ({"attacks": {"shared": {"threat_model": "text"}}}, "threat_model is text"),
        ({"attacks": {"run": ["hotflip", "noise"]}}, 'attacks.run has "noise", which attacks texts only'),
        ({"attacks": {"run": ["hotflip", "uat"]}}, r'"uat".*\(for pairs: .*hotflip'),
        ({"attacks": {"run": ["hotflip", "gcg"], "gcg": {"form": "universal"}}}, '"gcg"'),
        ({"training": {"warm_up": 0.6, "hold": 0.6}}, "add up to 1.2 of the steps"),
    ],
)  # fmt: skip
def test_what_pairs_cannot_have_is_refused_in_one_paragraph(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        study(change)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_local_model_has_to_fit_the_task(tmp_path: Path) -> None:
    save_model(zoo.tiny("t5"), zoo.tiny_tokenizer(), tmp_path / "t5")
    save_model(zoo.tiny("llama"), zoo.tiny_tokenizer(), tmp_path / "llama")

    def local(name: str) -> dict[str, Any]:
        return {"model": {"source": "local", "path": str(tmp_path / name)}, "controls": {"kinds": []}}

    check_study(study(local("t5")), "here")
    with pytest.raises(ConfigurationError, match=r"\(llama\) has no encoder, but data\.task is pairs"):
        check_study(study(local("llama"), {"arms": {"mlp_both": None}}), "here")
    texts = {"study": "texts", **local("t5"), "arms": {"baseline": {}}}
    with pytest.raises(ConfigurationError, match=r"\(t5\) has an encoder, but data\.task is text"):
        check_study(read_study(texts, "here"), "here")
    lifted = {"arms": {"mlp_both": {"constraint": {"init": "lift"}}}}
    with pytest.raises(ConfigurationError, match="init is lift, which needs norms that subtract the mean"):
        check_study(study(lifted), "here")


def test_new_settings_stay_out_of_the_digests_of_studies_that_do_not_use_them() -> None:
    text = as_mapping(study(name="smoke"))
    quiet = {"task", "pairs", "source_column", "group_column"}
    assert not quiet & set(text["data"]) and "hold" not in text["training"] and "length" in text["training"]
    pairs = as_mapping(study())
    assert pairs["data"]["task"] == "pairs" and pairs["data"]["pairs"]["max_source"] == 64
    assert pairs["base"]["training"]["hold"] == 0.5 and "hold" not in pairs["training"]
    again = read_study(json.loads(json.dumps(pairs)), "again")
    assert as_mapping(again) == pairs, "what is left out is what is filled in"


def test_the_rate_is_held_and_then_decays_to_nothing() -> None:
    def rates(**settings: Any) -> list[float]:
        schedule = Schedule(Training(max_steps=100, learning_rate=1.0, epochs=100, **settings), 3200)
        return [schedule.learning_rate(step) for step in range(100)]

    plain, held = rates(warm_up=0.1), rates(warm_up=0.1, hold=0.6)
    assert held[:10] == plain[:10] and set(held[10:71]) == {1.0} and held[71] < 1
    assert held[85] == pytest.approx(0.5) and held[99] == pytest.approx(1 / 30)
    assert rates(warm_up=0.1, hold=0.6, schedule="cosine")[85] == pytest.approx(0.5)
    assert set(rates(warm_up=0.1, hold=0.9)[10:]) == {1.0}
    assert rates(warm_up=0.1, hold=0.0) == plain


def test_automatic_precision_never_takes_fp16_for_t5(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from isotone.training import engine

    monkeypatch.setattr(engine, "choose_precision", lambda wanted, device: "fp16")
    training = Training(precision="auto", length=16)
    assert Engine(zoo.tiny("t5"), training, torch.device("cpu"), None).precision == "fp32"
    assert Engine(zoo.tiny("llama"), training, torch.device("cpu"), None).precision == "fp16"
