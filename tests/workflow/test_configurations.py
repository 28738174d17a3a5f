"""Every shipped study can be planned as it stands, without a network, and fits the devices that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from isotone.config.data import SPLITS
from isotone.planning.capacity import training_memory
from isotone.planning.shape import shape_of
from isotone.schema import merge
from isotone.studies.study import Study, read_study

from tests.workflow.conftest import ROOT, copy_checkout, planned, run

SHIPPED = sorted(path.name for path in (ROOT / "config").glob("*.yaml") if path.name != "schema.yaml")


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(root, tmp_path_factory.mktemp("shipped") / "checkout")


def study_of(*names: str) -> Study:
    merged: dict = {}
    for name in names:
        merged = merge(merged, yaml.safe_load((ROOT / "config" / name).read_text()))
    return read_study(merged, "+".join(names))


def jobs(study: Study) -> dict[str, int]:
    """How many jobs of each costly rule the configuration asks for."""
    runs = study.runs()
    trained = [arm for arm, _ in runs if "~" not in arm]
    expected = {
        "tokenize": len(SPLITS),
        "apply_monotonicity": len(study.arms),
        "train_baseline": sum(arm not in study.constrained_arms() for arm in trained),
        "train_monotonic": sum(arm in study.constrained_arms() for arm in trained),
        "early": sum("~early-" in arm for arm, _ in runs),
        "control": sum("~" in arm and "~early-" not in arm for arm, _ in runs),
        "generate": len(runs) * study.writes,
        "generate_after": sum(len(study.written_after(arm)) for arm, _ in runs),
        "pretrain": int(study.model.source == "scratch"),
        "fetch": int("hub" in (study.model.source, study.data.source)),
        "report": 1,
    }
    together = study.operation.attack_jobs == "seed"  # one job for all models of a seed, controls apart
    for arm, seed in runs:
        group = f"_{'controls' if '~' in arm else 'seed'}_{seed}" if together else ""
        rules = [(f"{rule}{group}", 1) for rule in ("calibrate", "perplexity")]
        rules += [(f"attack_{attack}{group}", 1) for attack in study.attacks_of(arm)]
        rules += [(f"transfer{group}", len(study.attacks.transfer))] if "~" not in arm else []
        for rule, count in rules:
            expected[rule] = count if together else expected.get(rule, 0) + count
    return {rule: count for rule, count in expected.items() if count}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_study_is_planned_offline(checkout: Path, name: str) -> None:
    plan = planned(checkout, configfile=f"config/{name}", HF_HUB_OFFLINE="1")
    expected = jobs(study_of(name))
    assert {rule: plan.get(rule, 0) for rule in expected} == expected
    assert not (checkout / "results").exists(), "a plan writes nothing"


@pytest.mark.parametrize(
    ("name", "overlay"), [("pythia-1.4b", "published"), ("t5-small", "published-t5"), ("t5-small", "xsum")]
)
def test_an_overlay_is_planned_on_top_of_its_model(checkout: Path, name: str, overlay: str) -> None:
    files = [f"config/{name}.yaml", f"config/overlays/{overlay}.yaml"]
    done = run(checkout, "-m", "snakemake", "-n", "--configfile", *files, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    expected = jobs(study_of(f"{name}.yaml", f"overlays/{overlay}.yaml"))
    counts = dict(re.findall(r"^(\w+)\s+(\d+)$", done.stdout + done.stderr, re.M))
    assert {rule: int(counts[rule]) for rule in expected} == expected


@pytest.mark.parametrize("name", [name for name in SHIPPED if study_of(name).model.source == "hub"])
def test_each_configuration_fits_the_devices_that_it_names(name: str) -> None:
    study, text = study_of(name), (ROOT / "config" / name).read_text()
    shape = shape_of(study.model)
    line = re.search(r"# Device: (.*)", text)
    named = re.findall(r"(one|\d+) GPUs? with (\d+) GB", line[1] if line else "")
    assert named
    for count, size in named:
        devices = 1 if count == "one" else int(count)
        for arm in study.arms:
            constrained = arm in study.constrained_arms()
            settings: dict[str, Any] = {"constrained": constrained, "processes": devices, "sharded": devices > 1}
            memory = training_memory(shape, study.training_of(arm), **settings)
            assert memory.total <= int(size) * 10**9, f"{arm} needs {memory.total / 1e9:.0f} GB of {size}"
        if devices > 1:  # else sharding would not be named
            assert training_memory(shape, study.training).total > int(size) * 10**9
