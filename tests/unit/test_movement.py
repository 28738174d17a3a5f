"""Whole training runs of constrained arms: what the certificate says of them afterwards."""

from __future__ import annotations

import importlib.util
import sys

import models_zoo as zoo
import pytest
from isotone.config.constraint import Constraint
from isotone.config.training import Training, TrainJob
from isotone.constraints import constrain
from isotone.models import load_model, save_model
from isotone.records import read_json
from isotone.schema import parse
from test_controls import split


@pytest.fixture
def train(root, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("recovery_table", root / "benchmarks/recovery_table.py")
    table = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, table)
    spec.loader.exec_module(table)
    split(tmp_path / "data/train", 20_000)
    split(tmp_path / "data/validation")

    def run(constraint, **training):
        model = constrain(zoo.tiny("gpt_neox"), constraint, zoo.random_ids(2, 32))
        save_model(model, zoo.tiny_tokenizer(), tmp_path / "start")
        settings = {"global_batch": 8, "micro_batch_size": 8, "length": 32, "max_steps": 10, "epochs": 5.0, **training}
        out = tmp_path / "run"
        result = table.train(
            tmp_path, out, tmp_path / "start", TrainJob(1, training=parse(Training, settings), constraint=constraint)
        )
        return result, read_json(out / "certificate.json"), load_model(out / "model")

    return run


@pytest.mark.parametrize("name", ["softplus", "exp", "square", "abs"])
def test_training_moves_constrained_weights_and_keeps_their_signs(train, name):
    result, certificate, _ = train(Constraint(scope="mlp_both", init="abs", map=name))
    assert result["moved_share"] > 0.9 and certificate["movement_guard"]
    assert certificate["stage"] == "exported" and all(layer["negatives"] == 0 for layer in certificate["layers"])


def test_the_published_bf16_recipe_moves_nothing(train):
    constraint = Constraint(scope="mlp_both", init="abs")
    result, certificate, _ = train(constraint, pure_bf16=True, learning_rate=5e-5)
    assert result["moved_share"] < 0.1 and certificate["movement_guard"] is False


def test_the_same_recipe_with_fp32_masters_moves(train):
    result, _, _ = train(Constraint(scope="mlp_both", init="abs"), precision="bf16", learning_rate=5e-5)
    assert result["moved_share"] > 0.9


def test_a_free_map_from_the_same_start_loses_its_signs(train):
    _, certificate, model = train(Constraint(scope="mlp_both", init="relu", map="free"), learning_rate=1e-2)
    assert certificate["verdict"] == "not_monotone_by_design"
    assert any((layer.mlp.dense_h_to_4h.weight < 0).any() for layer in model.gpt_neox.layers)


def test_deleted_nets_stay_deleted(train):
    _, _, model = train(Constraint(init="no_ffn"), learning_rate=1e-2)
    assert not any(layer.mlp.dense_4h_to_h.weight.any() for layer in model.gpt_neox.layers)


def test_the_strict_cone_holds_after_training(train):
    constraint = Constraint(scope="mlp_both", init="abs", cone="strict", map="project")
    result, certificate, _ = train(constraint, learning_rate=1e-2)
    assert certificate["verdict"] == "conditional" and not certificate["vacuous"]
    assert result["moved_share"] > 0.9
