"""The sentences follow from the data: planted effects change the verdicts, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from isotone.records import Json, canonical_json, digest_of, read_json, write_json
from isotone.reporting import final_results as final
from isotone.reporting.analysis.verdicts import (
    ABOVE,
    BELOW,
    CANNOT_TELL,
    DEPENDS,
    DISAGREE,
    EQUIVALENT,
    INSIDE,
    LESS,
    MORE,
    NO_CONTROL,
    OPEN,
    UNEQUAL,
    against_one,
    joint_p,
    over_all,
    plan,
    side,
)
from statsmodels.stats.multitest import multipletests
from synthetic_study import Planted, study_settings, write_study


def build(folder: Path, planted: Planted, **settings: Any) -> Json:
    defaults: dict[str, Any] = {
        "arms": ("baseline", "mlp_in"),
        "attacks": ("hotflip",),
        "documents": 32,
        "resamples": 400,
    }
    study = study_settings(**(defaults | settings))
    document = final.build(study, write_study(folder, study, planted))
    final.validate(document)
    return document


EFFECT = Planted(damage={"mlp_in": -0.2}, seed_spread=0.002, noise=0.01)


def test_a_control_as_robust_as_the_arm_takes_the_claim_away(tmp_path: Path) -> None:
    """Against the baseline the arm looks robust; against a model of equal quality it is not. The study's whole point."""
    planted = Planted(damage={"mlp_in": -0.2}, control_damage={"mlp_in": -0.2}, seed_spread=0.002, noise=0.01)
    results = build(tmp_path, planted)["results"]
    assert results["verdicts"][0]["word"] == EQUIVALENT
    raw = next(entry for entry in results["comparisons"] if entry["primary_form"])
    assert raw["difference"]["interval"][0] > 0.1 and raw["p_adjusted"] < 0.01
    assert any("this is no gain in robustness" in sentence for sentence in results["summary"]["against_baseline"])


def test_the_report_says_what_the_verdict_says(tmp_path: Path) -> None:
    results = build(tmp_path, EFFECT)["results"]
    assert results["verdicts"][0]["word"] == MORE
    (sentence,) = results["summary"]["robustness"]
    assert "mlp_in under hotflip: more robust than every control of equal quality" in sentence
    assert "3 seeds x 32 documents" in sentence
    assert results["summary"]["headline"].endswith("more robust: mlp_in (hotflip).")
    (raw,) = [text for text in results["summary"]["against_baseline"] if text.startswith("mlp_in under hotflip")]
    assert "no gain in robustness" not in raw


def test_one_seed_claims_nothing_about_seeds(tmp_path: Path) -> None:
    results = build(tmp_path, EFFECT, seeds=(42,))["results"]
    for cell in results["primary"]:
        difference = cell["outcomes"]["damage_cal"]["difference"]
        assert difference["scope"] == "documents of one training run" and cell["seed_floor"] is None
    assert "nothing is said about other seeds" in results["summary"]["robustness"][0]
    assert any(sentence.startswith("One seed") for sentence in results["summary"]["limits"])


def test_the_floor_of_the_seeds_is_said(tmp_path: Path) -> None:
    results = build(tmp_path, EFFECT, seeds=(1, 2, 3, 4, 5))["results"]
    assert any(
        "5 seeds no two-sided sign-flip p over seeds can be below 0.0625" in text
        for text in results["summary"]["limits"]
    )
    assert results["primary"][0]["seed_floor"] == 0.0625


def test_without_controls_there_is_no_claim(tmp_path: Path) -> None:
    results = build(tmp_path, EFFECT, controls=())["results"]
    assert results["primary"] == [] and results["verdicts"][0]["word"] == NO_CONTROL
    assert "makes no claim of robustness" in results["summary"]["headline"]
    assert any(
        "without a control of equal quality this is no claim" in text for text in results["summary"]["against_baseline"]
    )


def test_a_control_that_could_not_be_made_is_said(tmp_path: Path) -> None:
    study = study_settings(arms=("baseline", "mlp_in"), attacks=("hotflip",), controls=("tempered",), resamples=400)
    write_study(tmp_path, study)
    for seed in study.seeds:
        path = tmp_path / f"runs/mlp_in~tempered/seed-{seed}/train.json"
        marker = read_json(path)
        marker["result"]["control"] |= {"found": False, "reason": "not applicable: the arm is better"}
        write_json(path, marker)
    results = final.build(study, tmp_path)["results"]
    assert results["primary"] == []
    assert "mlp_in~tempered" not in results["quality"]
    assert len(results["unavailable"]) == 3
    (said,) = [text for text in results["summary"]["limits"] if "could not be made" in text]
    assert "mlp_in~tempered" in said and "42" in said and "2024" in said and "the arm is better" in said


def test_quality_sentences(tmp_path: Path) -> None:
    worse = build(tmp_path / "a", Planted(clean={"mlp_in": 0.3}))["results"]
    assert ": worse, +0.29" in worse["summary"]["quality"][0]
    same = build(tmp_path / "b", Planted(clean={"mlp_in": 0.0}), seeds=(1, 2, 3, 4, 5))["results"]
    assert "no difference beyond chance" in same["summary"]["quality"][0]
    better = build(tmp_path / "c", Planted(clean={"mlp_in": -0.3}))["results"]
    assert ": better, -0.30" in better["summary"]["quality"][0]


def test_the_mean_is_the_mean(tmp_path: Path) -> None:
    """Numbers of final_results.json against plain sums over the rows."""
    import json

    results = build(tmp_path, Planted())["results"]
    J, nll, tokens = [], 0.0, 0
    for seed in (42, 1337, 2024):
        for line in (tmp_path / f"runs/mlp_in/seed-{seed}/attacks/hotflip.jsonl").read_text().split("\n")[:-1]:
            row = json.loads(line)
            J += [row["J"]] if row["variant"] == "greedy" else []
        for line in (tmp_path / f"runs/mlp_in/seed-{seed}/perplexity.jsonl").read_text().split("\n")[:-1]:
            row = json.loads(line)
            if row["protocol"] == "rolling" and not row["excluded"]:
                nll, tokens = nll + row["nll"], tokens + row["tokens"]
    number = results["damage"]["mlp_in"]["hotflip"]["greedy"]["J"]
    assert len(J) == 96 and number["value"] == pytest.approx(np.mean(J), rel=1e-9)
    assert number["n"] == 32 and number["seeds"] == 3 and number["unit"] == "nats/token"
    quality = results["quality"]["mlp_in"]["rolling"]
    assert quality["nats_per_token"]["value"] == pytest.approx(nll / tokens, rel=1e-9)
    assert quality["token_perplexity"]["value"] == pytest.approx(np.exp(nll / tokens), rel=1e-9)
    assert quality["bits_per_byte"]["value"] == pytest.approx(nll / np.log(2) / (3 * tokens), rel=1e-9)
    base = results["quality"]["baseline"]["rolling"]["nats_per_token"]["value"]
    assert quality["cost"]["value"] == pytest.approx(quality["nats_per_token"]["value"] - base, rel=1e-6)


def test_every_number_leads_to_its_rows(tmp_path: Path) -> None:
    from isotone.records import file_digest

    results = build(tmp_path, Planted())["results"]
    number = results["damage"]["mlp_in"]["hotflip"]["greedy"]["J"]
    assert results["rows"][number["rows"]] == [
        f"runs/mlp_in/seed-{seed}/attacks/hotflip.jsonl" for seed in (1337, 2024, 42)
    ]
    for name, digest in results["files"].items():
        assert file_digest(tmp_path / name) == digest


def test_the_digest_knows_rows_and_not_costs(tmp_path: Path) -> None:
    one = build(tmp_path / "a", Planted())
    assert one["digest"] == digest_of(one["results"]) == build(tmp_path / "b", Planted())["digest"]
    study = study_settings(arms=("baseline", "mlp_in"), attacks=("hotflip",), resamples=400)
    marker = tmp_path / "a/runs/mlp_in/seed-42/train.json"
    content = read_json(marker)
    content["cost"] = {"seconds": 99999.0, "hosts": ["elsewhere"]}
    write_json(marker, content)
    again = final.build(study, tmp_path / "a")
    assert again["digest"] == one["digest"] and again["costs"] != one["costs"]
    rows = tmp_path / "a/runs/mlp_in/seed-42/attacks/hotflip.jsonl"
    rows.write_text(rows.read_text().replace('"J":0.', '"J":1.', 1))
    assert final.build(study, tmp_path / "a")["digest"] != one["digest"]


def test_the_order_of_arms_in_the_settings_does_not_matter(tmp_path: Path) -> None:
    import json

    from isotone.studies.study import read_study

    study = study_settings(arms=("mlp_in", "baseline"), attacks=("hotflip",), resamples=400)
    write_study(tmp_path, study)
    one = final.build(study, tmp_path)
    two = final.build(read_study(json.loads(canonical_json(final.settings_of(study))), "sorted"), tmp_path)
    assert one["digest"] == two["digest"] and one["results"]["arms"][0] == "baseline"


def test_the_published_schema_holds_and_refuses(tmp_path: Path) -> None:
    document = build(tmp_path, Planted())
    final.write(tmp_path / "final_results.json", document)
    assert final.read(tmp_path / "final_results.json")["digest"] == document["digest"]
    for spoil in (
        lambda results: results["primary"][0].update(verdict="significant"),
        lambda results: results["damage"]["mlp_in"]["hotflip"]["greedy"]["J"].pop("unit"),
        lambda results: results.update(extra=1),
    ):
        broken = read_json(tmp_path / "final_results.json")
        spoil(broken["results"])
        broken["digest"] = digest_of(broken["results"])
        with pytest.raises(ValueError, match=r"final_results\.json"):
            final.validate(broken)
    changed = read_json(tmp_path / "final_results.json")
    changed["results"]["study"] = "another"
    with pytest.raises(ValueError, match="digest"):
        final.validate(changed)
    write_json(tmp_path / "changed.json", changed)
    from isotone.errors import InputOutputError

    with pytest.raises(InputOutputError, match="changed after it was written"):
        final.read(tmp_path / "changed.json")
    write_json(tmp_path / "old.json", changed | {"schema": "isotone/final_results/0"})
    with pytest.raises(InputOutputError, match="follows"):
        final.read(tmp_path / "old.json")


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ([0.06, 0.2], ABOVE),
        ([-0.2, -0.06], BELOW),
        ([-0.04, 0.04], INSIDE),
        ([0.01, 0.04], INSIDE),  # real, but declared not to matter
        ([-0.04, 0.06], OPEN),
        (None, OPEN),
    ],
)
def test_sides_of_an_interval(interval: list[float] | None, expected: str) -> None:
    assert side(interval, 0.05) == expected


@pytest.mark.parametrize(
    ("sides", "p", "expected"),
    [
        ([ABOVE, ABOVE], 0.01, MORE),
        ([ABOVE, ABOVE], 0.2, CANNOT_TELL),  # Holm takes it back
        ([BELOW, BELOW], 0.01, LESS),
        ([BELOW, BELOW], 0.06, CANNOT_TELL),
        ([INSIDE, INSIDE], 1.0, EQUIVALENT),
        ([ABOVE, BELOW], 0.0, DISAGREE),
        ([ABOVE, INSIDE], 0.0, DISAGREE),
        ([ABOVE, OPEN], 0.0, CANNOT_TELL),
        ([INSIDE, OPEN], 0.0, CANNOT_TELL),
        ([OPEN, OPEN], 0.0, CANNOT_TELL),
    ],
)
def test_a_claim_needs_both_outcomes(sides: list[str], p: float, expected: str) -> None:
    assert against_one(sides, p, 0.05) == expected


def test_the_joint_p_is_the_larger_and_one_where_signs_differ() -> None:
    assert joint_p([1.0, 2.0], [0.01, 0.2]) == 0.2 == joint_p([-1.0, -2.0], [0.01, 0.2])
    assert joint_p([1.0, -2.0], [0.01, 0.01]) == 1.0 == joint_p([0.0, 2.0], [0.5, 0.01])


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([MORE, MORE, MORE], MORE),
        ([LESS, LESS], LESS),
        ([EQUIVALENT, EQUIVALENT], EQUIVALENT),
        ([MORE, LESS], DEPENDS),
        ([MORE, EQUIVALENT], DEPENDS),
        ([MORE, DISAGREE], DEPENDS),
        ([MORE, LESS, CANNOT_TELL], DEPENDS),
        ([MORE, CANNOT_TELL], CANNOT_TELL),
        ([CANNOT_TELL, CANNOT_TELL], CANNOT_TELL),
        ([DISAGREE, DISAGREE], DISAGREE),
        ([MORE, UNEQUAL], MORE),
        ([UNEQUAL, UNEQUAL], NO_CONTROL),
        ([], NO_CONTROL),
    ],
)
def test_the_word_over_all_controls(verdicts: list[str], expected: str) -> None:
    assert over_all({f"control {index}": verdict for index, verdict in enumerate(verdicts)}) == expected
    assert over_all({"tempered": MORE}) == NO_CONTROL  # a temperature changes no prediction


def test_plans_ask_for_documents_or_seeds() -> None:
    generator = np.random.default_rng(0)
    noisy_seeds = 0.1 * generator.normal(size=(4, 1)) + 0.01 * generator.normal(size=(4, 50))
    found = plan(noisy_seeds, smallest_effect=0.05, power=0.8, alpha=0.05)
    assert found["documents"] is None and found["seeds"] > 4
    one_seed = plan(generator.normal(0, 0.2, (1, 20)), smallest_effect=0.05, power=0.8, alpha=0.05)
    assert one_seed["seeds"] is None and one_seed["documents"] > 20
    assert plan(np.zeros((1, 1)), smallest_effect=0.05, power=0.8, alpha=0.05)["documents"] is None
    assert plan(np.ones((1, 5)), smallest_effect=0.05, power=0.8, alpha=0.05)["documents"] == 2


def test_holm_is_over_all_arms_and_controls(tmp_path: Path) -> None:
    results = build(tmp_path, Planted(), arms=("baseline", "mlp_in", "mlp_both"))["results"]
    cells = results["primary"]
    assert len(cells) == 4 and {cell["control"] for cell in cells} == {"tempered", "noised"}
    expected = multipletests([cell["p"] for cell in cells], method="holm")[1]
    assert [cell["p_adjusted"] for cell in cells] == pytest.approx(expected)
    assert all(cell["adjustment"] == "Holm over 4 arms x attacks x controls" for cell in cells)


def test_benjamini_hochberg_is_over_all_secondary_comparisons(tmp_path: Path) -> None:
    results = build(tmp_path, Planted(), arms=("baseline", "mlp_in", "mlp_both", "lift"))["results"]
    entries = results["comparisons"]
    expected = multipletests([entry["tests"]["claim"]["p"] for entry in entries], method="fdr_bh")[1]
    assert len(entries) > 3
    assert [entry["p_adjusted"] for entry in entries] == pytest.approx(expected)


def test_success_counts_documents_above_the_threshold(tmp_path: Path) -> None:
    import json

    results = build(tmp_path, Planted())["results"]
    lines = (tmp_path / "runs/mlp_in/seed-42/attacks/hotflip.jsonl").read_text().split("\n")[:-1]
    J = [row["J"] for row in map(json.loads, lines) if row["variant"] == "greedy"]
    success = results["damage"]["mlp_in"]["hotflip"]["greedy"]["success"]
    shares = {float(threshold): number["value"] for threshold, number in success.items()}
    assert shares == pytest.approx({threshold: np.mean(np.array(J) > threshold) for threshold in shares})
    assert any(0 < share < 1 and abs(share - 0.5) > 0.01 for share in shares.values())
