"""What Snakemake plans after a change: exactly what the change touches."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.conftest import planned, run

REPORT = {"aggregate", "figures", "report", "all"}


@pytest.fixture
def study(copy_of_finished: Callable[[], Path]) -> Path:
    return copy_of_finished()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_finished_study_plans_nothing_in_place(finished: Path) -> None:
    assert planned(finished) == {}


def test_what_changes_no_result_plans_nothing(study: Path, tmp_path: Path) -> None:
    """Another checkout path (the copy itself), user, state folder, profile, device, epochs per run."""
    assert planned(study, ISOTONE_STATE=str(tmp_path / "state"), USER="somebody", CUDA_VISIBLE_DEVICES="3") == {}
    epochs = [f"{rule}:max_epochs_per_run=1" for rule in ("train_baseline", "train_monotonic", "pretrain")]
    assert planned(study, "--set-resources", *epochs) == {}
    assert planned(study, "--set-resources", "train_baseline:processes=2", "train_baseline:gpu=2") == {}
    assert planned(study, "--profile", "profiles/local") == {}
    edit(study / "config/smoke.yaml", "report:", "operation: {keep: 5, save_every_steps: 3}\nreport:")
    assert planned(study) == {}


def test_results_copied_without_snakemakes_notes_plan_at_most_the_report(study: Path) -> None:
    shutil.rmtree(study / ".snakemake")
    assert set(planned(study)) <= REPORT


def test_a_deleted_marker_reruns_its_step_and_what_depends_on_it(study: Path) -> None:
    (study / "results/smoke/runs/mlp_both/seed-42/perplexity.json").unlink()
    assert planned(study) == {"perplexity": 1, "aggregate": 1, "figures": 1, "report": 1, "all": 1}


def test_a_deleted_training_marker_reruns_one_training(study: Path) -> None:
    (study / "results/smoke/runs/mlp_both/seed-42/train.json").unlink()
    plan = planned(study)
    assert plan["train_monotonic"] == 1 and "train_baseline" not in plan and "pretrain" not in plan
    assert plan["perplexity"] == 2 and plan["control"] == 1  # the run and its control


def test_a_learning_rate_retrains_only_its_arm(study: Path) -> None:
    edit(study / "config/smoke.yaml", "init: abs}", "init: abs}\n    training: {learning_rate: 2.0e-3}")
    plan = planned(study)
    assert plan["train_monotonic"] == 2
    assert not {"train_baseline", "pretrain", "setup", "tokenize", "apply_monotonicity"} & set(plan)


def test_a_bootstrap_setting_touches_only_the_report(study: Path) -> None:
    edit(study / "config/smoke.yaml", "resamples: 1000", "resamples: 1200")
    assert set(planned(study)) == REPORT


def test_comments_rerun_nothing_and_attack_code_reruns_attacks(study: Path) -> None:
    for path in (study / "scripts/isotone").rglob("*.py"):
        path.write_text("# a remark\n" + path.read_text())
    for path in [study / "Snakefile", *(study / "rules").glob("*.smk")]:
        path.write_text(path.read_text() + "\n# a remark\n")
    assert planned(study) == {}
    with open(study / "scripts/isotone/attacks/hotflip.py", "a") as file:
        file.write("\nANOTHER_CONSTANT = 1\n")
    plan = planned(study)
    assert {"attack_hotflip", "attack_random"} <= set(plan)
    assert not {"train_baseline", "train_monotonic", "pretrain", "perplexity", "control"} & set(plan)


def test_training_code_retrains_only_with_its_version(study: Path) -> None:
    with open(study / "scripts/isotone/training/schedule.py", "a") as file:
        file.write("\nANOTHER_CONSTANT = 1\n")
    assert "train_baseline" not in planned(study)
    path = study / "scripts/isotone/config/training.py"
    path.write_text(re.sub(r"^VERSION = (\d+)", r"VERSION = 99", path.read_text(), flags=re.M))
    assert {"train_baseline", "train_monotonic", "pretrain"} <= set(planned(study))


STAGES = [
    ("config/data.py", "CORPUS_VERSION", "corpus", set()),
    ("config/data.py", "SETUP_VERSION", "setup", {"corpus"}),
    ("config/data.py", "TOKENS_VERSION", "tokenize", {"corpus", "setup"}),
    ("config/constraint.py", "VERSION", "apply_monotonicity", {"corpus", "setup", "tokenize", "pretrain"}),
]


@pytest.mark.parametrize(("file", "name", "stage", "kept"), STAGES, ids=[stage for _, _, stage, _ in STAGES])
def test_a_stage_before_training_is_made_again_with_its_version(
    study: Path, file: str, name: str, stage: str, kept: set[str]
) -> None:
    path = study / "scripts/isotone" / file
    text, changed = re.subn(rf"^{name} = \d+", f"{name} = 99", path.read_text(), flags=re.M)
    assert changed == 1
    path.write_text(text)
    plan = planned(study)
    assert plan[stage] >= 1 and {"train_baseline", "train_monotonic"} <= set(plan)
    assert not kept & set(plan)


def test_what_texts_must_fit_changes_no_training(study: Path) -> None:
    """Perplexity and attack windows are checked before training, and train nothing again."""
    edit(study / "config/smoke.yaml", "window: 32", "window: 40")
    edit(study / "config/smoke.yaml", "stride: 32, documents: 4", "stride: 16, documents: 3")
    plan = planned(study)
    assert {"tokenize": 1, "attack_documents": 1}.items() <= plan.items() and "perplexity" in plan
    assert not {"setup", "pretrain", "apply_monotonicity", "train_baseline", "train_monotonic"} & set(plan)
    edit(study / "config/smoke.yaml", "init: abs}", "init: abs}\n    training: {learning_rate: 2.0e-3}")
    assert planned(study)["train_monotonic"] == 2  # a reason of its own counts beside that one


def test_a_second_run_says_nothing_to_do(study: Path) -> None:
    done = run(study, "-m", "snakemake", "--profile", "profiles/local", "--configfile", "config/smoke.yaml")
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr


def test_starts_that_training_consumed_may_go(study: Path) -> None:
    shutil.rmtree(study / "results/smoke/starts/mlp_both/model")
    assert planned(study)["apply_monotonicity"] == 1
    edit(study / "config/smoke.yaml", "report:", "operation: {keep_starts: false}\nreport:")
    assert planned(study) == {}
    (study / "results/smoke/runs/mlp_both/seed-42/train.json").unlink()
    plan = planned(study)
    assert (
        plan["apply_monotonicity"] == 1 and plan["train_monotonic"] == 2
    )  # both seeds read the start that is made again
