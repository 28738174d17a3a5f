"""Any file of a finished study may vanish: the same command makes it again, and the plan says so before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from isotone.records import file_digest, folder_digest

from tests.workflow.conftest import planned, run

# A workflow that, once it is read, takes away each declared output in turn and notes what `all` would name.
PROBE = """
include: "Snakefile"

made = steps()
answers = {"nothing": lost(), "steps": sorted(set(made.values()))}
for path in [path for outputs in made for path in outputs]:
    place = Path(path)
    away = place.with_name(place.name + ".away")
    place.rename(away)
    answers[path] = [*LAST, *lost()]
    away.rename(place)
Path("answers.json").write_text(canonical_json(answers))
"""


def digests(study: Path) -> dict[str, str]:
    """What must come back, by name."""
    root = study / "results/smoke"
    found = {"model": folder_digest(root / "runs/mlp_both/seed-42/model", "*.safetensors")}
    for name in ("runs/mlp_both/seed-42/perplexity.jsonl", "runs/baseline/seed-42/attacks/hotflip.jsonl"):
        found[name] = file_digest(root / name)
    found["results"] = json.loads((root / "final_results.json").read_text())["digest"]
    return found


@pytest.fixture
def study(copy_of_finished: Callable[[], Path]) -> Path:
    return copy_of_finished()


def test_every_declared_output_is_missed_by_name(study: Path) -> None:
    (study / "Probe").write_text(PROBE)
    done = run(study, "-m", "snakemake", "-n", "-s", "Probe", "--configfile", "config/smoke.yaml")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    answers = json.loads((study / "answers.json").read_text())
    assert answers.pop("nothing") == []
    assert set(answers.pop("steps")) == set(planned(study, "--forceall")) - {"all"}
    assert len(answers) > 80
    assert {path: found for path, found in answers.items() if path not in found} == {}


@pytest.mark.parametrize(
    ("gone", "rules"),
    [
        ("final_results.json", {"aggregate"}),
        ("experiment_summary.txt", {"aggregate"}),
        ("figures", {"figures"}),
        ("runs/mlp_both/seed-42/model", {"train_monotonic"}),
        ("runs/baseline/seed-42/attacks/hotflip.jsonl", {"attack_hotflip"}),
        ("data/test/tokens.bin", {"tokenize"}),
    ],
)
def test_the_plan_names_the_job_that_makes_it_again(study: Path, gone: str, rules: set[str]) -> None:
    place = study / "results/smoke" / gone
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert rules <= set(planned(study))


def test_what_was_lost_comes_back_the_same(study: Path) -> None:
    """A row file, a model, a table of results and the figures, all at once, by the advice that an error gives."""
    before = digests(study)
    root = study / "results/smoke"
    for gone in ("runs/baseline/seed-42/attacks/hotflip.jsonl", "runs/mlp_both/seed-42/perplexity.jsonl",
                 "experiment_summary.txt", "final_results.json"):  # fmt: skip
        (root / gone).unlink()
    for gone in ("runs/mlp_both/seed-42/model", "figures"):
        shutil.rmtree(root / gone)
    done = run(study, "scripts/run_study.py", "config/smoke.yaml")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert digests(study) == before
    assert planned(study) == {}
    assert planned(study, configfile="results/smoke/config.yaml") == {}  # the record describes the same study
