"""Reading: complete, finite, no duplicates, the same documents everywhere - or a message that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from isotone.errors import ConfigurationError, InputOutputError, IsotoneError
from isotone.records import read_json, write_json
from isotone.reporting.evidence.expected import expected_files
from isotone.reporting.evidence.read import load_evidence
from isotone.reporting.evidence.rows import read_attack, read_clean
from isotone.studies.study import Study
from synthetic_study import study_settings, write_study

ATTACK = "runs/mlp_in/seed-7/attacks/hotflip.jsonl"


@pytest.fixture(scope="module")
def study() -> Study:
    return study_settings(
        arms=("baseline", "mlp_in"), seeds=(7, 8), attacks=("hotflip", "uat"), documents=10, transfer=("hotflip",)
    )


@pytest.fixture(scope="module")
def whole(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("whole"), study)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "study")


def edit_line(path: Path, index: int, change: Callable[[dict], object]) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    row = json.loads(lines[index])
    change(row)
    lines[index] = json.dumps(row)
    path.write_text("\n".join(lines), encoding="utf-8")


def test_a_whole_study_loads(study: Study, whole: Path) -> None:
    evidence = load_evidence(study, whole)
    matrix = evidence.matrix("mlp_in", "hotflip", "greedy", "J")
    assert matrix.shape == (2, 10)
    assert evidence.matrix("mlp_in~tempered", "hotflip", "greedy", "J", seeds=[8]).shape == (1, 10)
    assert evidence.variants("baseline", "hotflip") == ["one_shot", "greedy"]  # the fresh start is for a gate only
    assert evidence.common_seeds("mlp_in", "baseline") == [7, 8]


def test_what_must_exist_follows_from_the_configuration_alone(study: Study) -> None:
    names = expected_files(study)
    assert ATTACK in names and "runs/mlp_in~tempered/seed-8/attacks/hotflip.jsonl" in names
    assert "runs/mlp_in~tempered/seed-8/attacks/uat.jsonl" not in names  # controls.attacks is hotflip
    assert "runs/baseline~tempered/seed-7/train.json" not in names
    assert "transfer/hotflip/baseline-seed-7.jsonl" in names
    assert not any("order.json" in name for name in names)
    assert any("order.json" in name for name in expected_files(study_settings(order=True)))


def test_every_missing_file_is_named_with_the_command_that_makes_it(study: Study, folder: Path) -> None:
    for name in expected_files(study):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(ConfigurationError) as found:
            load_evidence(study, folder)
        assert f"`snakemake {folder / name} --profile profiles/local --configfile {folder}/config.yaml`" in str(
            found.value
        )
        (folder / name).write_bytes(kept)
    load_evidence(study, folder)


def test_rows_of_an_arm_that_is_not_configured_change_nothing(study: Study, folder: Path) -> None:
    shutil.copytree(folder / "runs/mlp_in", folder / "runs/old_arm")
    assert "old_arm" not in {run.arm for run in load_evidence(study, folder).clean}


def spoil_value(key: str, value: object) -> Callable[[Path], None]:
    return lambda path: edit_line(path, 3, lambda row: row.update({key: value}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_value("J", float("nan")), r"line 4: NaN stands where a number should"),
        (spoil_value("J", float("inf")), r"Infinity stands where"),
        (spoil_value("J", None), r"J is None for document 'chapter 0003'"),
        (spoil_value("J", "0.5"), r"J is '0.5'"),
        (spoil_value("clean_nll", True), r"clean_nll is True"),
        (spoil_value("schema", "attack/0"), r"schema is 'attack/0', not 'attack/1'"),
        (spoil_value("document", "chapter 0002"), r"'chapter 0002' stands twice"),
        (lambda path: path.write_text(path.read_text()[:-40]), r"line \d+: "),
        (lambda path: path.write_text(""), r"has no rows"),
    ],
)
def test_damaged_rows_stop_aggregation(study: Study, folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder / ATTACK)
    with pytest.raises(InputOutputError, match=message) as found:
        load_evidence(study, folder)
    assert ATTACK in str(found.value)


def test_a_nan_in_perplexity_stops_aggregation(study: Study, folder: Path) -> None:
    path = folder / "runs/baseline/seed-8/perplexity.jsonl"
    edit_line(path, 0, lambda row: row.update(nll=float("nan")))
    with pytest.raises(InputOutputError, match="NaN"):
        load_evidence(study, folder)


def copy_rows(folder: Path) -> None:
    shutil.copy(folder / ATTACK, folder / ATTACK.replace("seed-7", "seed-8"))


def copy_weights(folder: Path) -> None:
    one, two = folder / "runs/mlp_in/seed-7/train.json", folder / "runs/mlp_in/seed-8/train.json"
    marker = read_json(two)
    marker["result"]["weights_sha256"] = read_json(one)["result"]["weights_sha256"]
    write_json(two, marker)


@pytest.mark.parametrize("spoil", [copy_rows, copy_weights])
def test_a_seed_counted_twice_is_refused(study: Study, folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    with pytest.raises(ConfigurationError, match="seeds 7 and 8 of mlp_in are one run counted twice"):
        load_evidence(study, folder)


def test_an_arm_declared_once_has_one_seed_and_is_no_duplicate(tmp_path: Path) -> None:
    from isotone.schema import as_mapping
    from isotone.studies.study import read_study

    raw = as_mapping(study_settings(arms=("baseline", "mlp_in"), seeds=(7, 8), attacks=("hotflip",), documents=10))
    raw["arms"]["mlp_in"]["seeds"] = "once"
    study = read_study(raw, "test")
    evidence = load_evidence(study, write_study(tmp_path, study))
    assert evidence.common_seeds("mlp_in", "baseline") == [7]


def test_pairs_need_the_same_documents(study: Study, folder: Path) -> None:
    edit_line(folder / ATTACK, 3, lambda row: row.update(document="another"))
    with pytest.raises(ConfigurationError, match="pairs need the same documents everywhere"):
        load_evidence(study, folder)


def test_runs_need_the_same_forms(study: Study, folder: Path) -> None:
    path = folder / ATTACK
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"one_shot"' not in line))
    with pytest.raises(ConfigurationError, match="forms"):
        load_evidence(study, folder)


def test_a_protocol_without_rows_is_an_error(study: Study, folder: Path) -> None:
    path = folder / "runs/mlp_in/seed-7/perplexity.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"strided"' not in line))
    with pytest.raises(ConfigurationError, match="no rows of protocol strided"):
        load_evidence(study, folder)


def test_a_control_that_does_not_exist_is_left_out_and_said(study: Study, folder: Path) -> None:
    for seed in (7, 8):
        path = folder / f"runs/mlp_in~tempered/seed-{seed}/train.json"
        marker = read_json(path)
        marker["result"]["control"] |= {"found": False, "reason": "not applicable: the arm is not worse"}
        write_json(path, marker)
    evidence = load_evidence(study, folder)
    assert evidence.runs_of("mlp_in~tempered") == []
    assert set(evidence.unavailable.values()) == {"not applicable: the arm is not worse"}


def test_excluded_documents_are_counted_and_not_averaged(whole: Path) -> None:
    table = read_clean(whole / "runs/baseline/seed-7/perplexity.jsonl")["rolling"]
    assert table.excluded == 1 and "test short" not in table.documents and len(table.documents) == 10


def test_unicode_line_separators_do_not_cut_rows(tmp_path: Path) -> None:
    row = {
        "schema": "attack/1",
        "attack": "a",
        "variant": "v",
        "document": "\u2028d\x85",
        "tokens": 1,
        "clean_nll": 1.0,
        "J": 0.5,
    }
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_attack(path)["v"].documents == ["\u2028d\x85"]


def test_columns_of_attack_rows(whole: Path) -> None:
    forms = read_attack(whole / ATTACK)
    greedy = forms["greedy"]
    assert greedy.documents == sorted(greedy.documents)
    assert greedy.curve_NK is not None and greedy.curve_NK.shape == (10, 6)
    assert (greedy.curve_NK[:, -1] == greedy.columns["J"]).all() and (greedy.curve_NK[:, 0] == 0).all()
    assert greedy.flips_K == [0, 1, 2, 3, 4, 5]
    assert greedy.ledger == {"forward_tokens": 60_000, "backward_tokens": 6_000, "candidates": 400}
    assert len(greedy.predicted) == len(greedy.exact) == 50
    mean = greedy.columns["J"].mean()
    rise, tokens = greedy.distance[1, 1]
    assert rise / tokens == pytest.approx(0.3 * 115 / 5 * mean)


def test_damage_is_counted_per_changed_token(whole: Path) -> None:
    """Of 120 tokens 5 are changed: sums over the 115 others, divided by 5; triggers stand in front and change none."""
    row = next(row for row in map(json.loads, (whole / ATTACK).read_text().split("\n")) if row["variant"] == "greedy")
    greedy = read_attack(whole / ATTACK)["greedy"]
    at = greedy.documents.index(row["document"])
    column = {key: float(values[at]) for key, values in greedy.columns.items()}
    assert column["damage"] == pytest.approx(row["J"] * 115 / 5)
    assert column["near"] == pytest.approx(column["damage"] / 2) == pytest.approx(column["far"])
    assert column["changed_predictions"] == pytest.approx((1 - row["top1_agreement"]) * 115 / 5)
    assert column["accuracy_lost"] == pytest.approx((row["clean_accuracy"] - row["accuracy"]) * 115 / 5)
    assert column["damage_cal"] == pytest.approx(row["calibrated"]["J"] * 115 / 5)
    trigger = read_attack(whole / ATTACK.replace("hotflip", "uat"))["trigger"]
    assert trigger.columns["damage"] == pytest.approx(trigger.columns["J"] * 120 / 2)
    assert "near" not in trigger.columns


def test_an_attack_that_changed_nothing_did_no_damage(tmp_path: Path) -> None:
    row = {"schema": "attack/1", "variant": "v", "document": "a", "tokens": 9, "clean_nll": 1.0, "J": 0.0, "flips": []}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row | {"top1_agreement": 1.0}) + "\n")
    columns = read_attack(path)["v"].columns
    assert columns["changes"] == [0] and columns["damage"] == [0] and columns["changed_predictions"] == [0]
    path.write_text(json.dumps({key: value for key, value in row.items() if key != "flips"}) + "\n")
    assert "damage" not in read_attack(path)["v"].columns  # rows that do not say how many tokens they changed


def test_a_document_that_ended_early_keeps_its_last_value(tmp_path: Path) -> None:
    def row(name: str, curve: list[float]) -> str:
        points = [{"flips": k, "J": J, "forward_tokens": k} for k, J in enumerate(curve)]
        return json.dumps(
            {
                "schema": "attack/1",
                "variant": "v",
                "document": name,
                "tokens": 1,
                "clean_nll": 1.0,
                "J": curve[-1],
                "curve": points,
            }
        )

    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([row("a", [0.0, 0.1, 0.2]), row("b", [0.0, 0.3])]) + "\n")
    table = read_attack(path)["v"]
    assert table.curve_NK is not None
    assert table.curve_NK.tolist() == [[0.0, 0.1, 0.2], [0.0, 0.3, 0.3]]


def test_a_transfer_matrix_with_a_hole_is_an_error(study: Study, folder: Path) -> None:
    from isotone.reporting.analysis.numbers import Sources
    from isotone.reporting.analysis.replays import transfer

    path = folder / "transfer/hotflip/mlp_in-seed-7.jsonl"
    lines = [line for line in path.read_text().splitlines(keepends=True) if '"source":"baseline/seed-8"' not in line]
    path.write_text("".join(lines))
    evidence = load_evidence(study, folder)
    with pytest.raises(IsotoneError, match="no complete rows for the source baseline/seed-8"):
        transfer(evidence, Sources(evidence))


def test_damage_by_compute_steps_where_a_search_had_spent_so_much(tmp_path: Path) -> None:
    base = {"schema": "attack/1", "attack": "hotflip", "variant": "greedy", "clean_nll": 3.0, "tokens": 60}
    curves = {
        "a": [(6, 0.1), (13, 0.3), (20, 0.4)],  # forward passes, J: it ended after 20
        "b": [(9, 0.2), (100, 0.9)],
    }
    search = {"forwards": 100, "ceiling": True, "converged": False, "last_gain": 0.1}
    path = tmp_path / "hotflip.jsonl"
    lines = [
        {**base, "document": name, "J": points[-1][1], "compute": [{"forwards": at, "J": J} for at, J in points],
         "search": search | {"ceiling": name == "b"}}
        for name, points in curves.items()
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = read_attack(path)["greedy"]
    assert table.passes_D == [8, 16, 32, 64, 128]
    assert table.compute_ND is not None and table.compute_ND.tolist() == [
        [0.1, 0.3, 0.4, 0.4, 0.4],
        [0.0, 0.2, 0.2, 0.2, 0.9],
    ]
    assert table.ceiling is not None and table.ceiling.tolist() == [False, True]
    del lines[0]["search"]["converged"], lines[1]["compute"]  # no ceiling was set; an attack that does not search
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = read_attack(path)["greedy"]
    assert table.ceiling is None and table.compute_ND is None and table.passes_D == []


def test_seeds_with_other_budgets_share_one_axis_of_compute(study: Study, folder: Path) -> None:
    from isotone.reporting.analysis.damage import damage
    from isotone.reporting.analysis.numbers import Sources

    for seed, scale in ((7, 1), (8, 4)):
        path = folder / f"runs/mlp_in/seed-{seed}/attacks/hotflip.jsonl"
        for index in range(len(path.read_text().split("\n")) - 1):
            points = [{"forwards": 3 * scale, "J": 0.2}, {"forwards": 6 * scale, "J": 0.6}]
            edit_line(path, index, lambda row, points=points: row.update(compute=points))
    evidence = load_evidence(study, folder)
    curve = damage(evidence, Sources(evidence))["mlp_in"]["hotflip"]["greedy"]["compute"]
    assert [point["passes"] for point in curve] == [4, 8, 16, 32]
    assert [point["J"]["value"] for point in curve] == pytest.approx([0.1, 0.3, 0.4, 0.6])
