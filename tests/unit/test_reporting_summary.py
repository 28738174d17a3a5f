"""The sentences follow from the data: planted effects change the verdicts, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from isotone.records import Json, canonical_json, digest_of, read_json, write_json
from isotone.reporting import final_results as final
from isotone.reporting.analysis.verdicts import EFFECT, NO_EFFECT, OPPOSITE, UNDERPOWERED, plan, verdict
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


WORLDS = {
    # the arm and its null are alike
    NO_EFFECT: Planted(seed_spread=0.002, document_spread=0.15, noise=0.01),
    # the arm loses 0.2 nats less than its null
    EFFECT: Planted(damage={"mlp_in": -0.2}, seed_spread=0.002, noise=0.01),
    OPPOSITE: Planted(damage={"mlp_in": 0.2}, seed_spread=0.002, noise=0.01),
    UNDERPOWERED: Planted(damage={"mlp_in": -0.05}, seed_spread=0.1, noise=0.1),
}
WORDS = {
    NO_EFFECT: "no effect that matters",
    EFFECT: "more robust than a model of equal quality (tempered)",
    OPPOSITE: "less robust than a model of equal quality (tempered)",
    UNDERPOWERED: "these data cannot tell",
}


@pytest.mark.parametrize("world", list(WORLDS))
def test_the_sentence_follows_from_the_data(tmp_path: Path, world: str) -> None:
    results = build(tmp_path, WORLDS[world])["results"]
    (claim,) = results["primary"]
    assert claim["verdict"] == world
    (sentence,) = results["summary"]["robustness"]
    assert WORDS[world] in sentence and "3 seeds x 32 documents" in sentence
    assert sum(words in sentence for words in WORDS.values()) == 1
    assert "mlp_in (hotflip)" in results["summary"]["headline"]


def test_a_null_as_robust_as_the_arm_takes_the_claim_away(tmp_path: Path) -> None:
    """Against the baseline the arm looks robust; against a model of equal quality it is not. The study's whole point."""
    planted = Planted(damage={"mlp_in": -0.2}, null_damage={"mlp_in": -0.2}, seed_spread=0.002, noise=0.01)
    results = build(tmp_path, planted)["results"]
    assert results["primary"][0]["verdict"] == NO_EFFECT
    raw = next(entry for entry in results["comparisons"] if entry["primary_form"])
    assert raw["difference"]["interval"][0] > 0.1 and raw["p_adjusted"] < 0.01
    assert any("this is no gain in robustness" in sentence for sentence in results["summary"]["against_reference"])


def test_excess_is_over_the_hardest_null(tmp_path: Path) -> None:
    from isotone.reporting.analysis import comparisons
    from isotone.reporting.analysis.numbers import Sources
    from isotone.reporting.evidence.read import load_evidence

    study = study_settings(
        arms=("baseline", "mlp_in"), attacks=("hotflip",), nulls=("tempered", "noised"), resamples=400
    )
    write_study(tmp_path, study, Planted(damage={"mlp_in": -0.2}, seed_spread=0.002, noise=0.01))
    evidence = load_evidence(study, tmp_path)
    for run in evidence.runs_of("mlp_in~noised"):  # the noised null is as robust as the arm
        evidence.attacks[run]["hotflip"]["greedy"].columns["J"] -= 0.19
    claims, behind = comparisons.primary(evidence, Sources(evidence))
    assert len(behind) == 2 and len(claims) == 1
    assert claims[0]["against"] == "mlp_in~noised" and claims[0]["verdict"] == NO_EFFECT
    assert claims[0]["excess"]["value"] == min(claims[0]["nulls"].values())
    assert claims[0]["p"] == max(entry["tests"]["claim"]["p"] for entry in behind)
    assert claims[0]["excess"]["interval"][0] == min(entry["difference"]["interval"][0] for entry in behind)


def test_one_seed_claims_nothing_about_seeds(tmp_path: Path) -> None:
    results = build(tmp_path, WORLDS[EFFECT], seeds=(42,))["results"]
    (claim,) = results["primary"]
    assert claim["scope"] == "documents of one training run" and claim["seed_floor"] is None
    assert "nothing is said about other seeds" in results["summary"]["robustness"][0]
    assert any(sentence.startswith("One seed") for sentence in results["summary"]["limits"])


def test_the_floor_of_the_seeds_is_said(tmp_path: Path) -> None:
    results = build(tmp_path, WORLDS[EFFECT], seeds=(1, 2, 3, 4, 5))["results"]
    assert any(
        "5 seeds no two-sided sign-flip p over seeds can be below 0.0625" in text
        for text in results["summary"]["limits"]
    )
    assert results["primary"][0]["seed_floor"] == 0.0625


def test_without_nulls_there_is_no_claim(tmp_path: Path) -> None:
    results = build(tmp_path, WORLDS[EFFECT], nulls=())["results"]
    assert results["primary"] == [] and "makes no claim of robustness" in results["summary"]["headline"]
    assert any(
        "without a control of equal quality this is no claim" in text
        for text in results["summary"]["against_reference"]
    )


def test_a_null_that_could_not_be_made_is_said(tmp_path: Path) -> None:
    study = study_settings(arms=("baseline", "mlp_in"), attacks=("hotflip",), resamples=400)
    write_study(tmp_path, study)
    for seed in study.seeds:
        path = tmp_path / f"runs/mlp_in~tempered/seed-{seed}/train.json"
        marker = read_json(path)
        marker["result"]["null"] |= {"found": False, "reason": "not applicable: the arm is better"}
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

    from isotone.config.study import read_study

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
    ("interval", "p", "expected"),
    [
        ([0.06, 0.2], 0.001, EFFECT),
        ([0.06, 0.2], 0.2, UNDERPOWERED),  # Holm takes it back
        ([-0.2, -0.06], 0.001, OPPOSITE),
        ([-0.04, 0.04], 1.0, NO_EFFECT),
        ([0.01, 0.04], 0.001, NO_EFFECT),  # real, but declared not to matter
        ([-0.04, 0.06], 0.4, UNDERPOWERED),
        (None, 0.0, UNDERPOWERED),
    ],
)
def test_verdicts(interval: list[float] | None, p: float, expected: str) -> None:
    assert verdict(0.1, interval, p, confidence=0.95, smallest_effect=0.05) == expected


def test_plans_ask_for_documents_or_seeds() -> None:
    generator = np.random.default_rng(0)
    noisy_seeds = 0.1 * generator.normal(size=(4, 1)) + 0.01 * generator.normal(size=(4, 50))
    found = plan(noisy_seeds, smallest_effect=0.05, power=0.8, alpha=0.05)
    assert found["documents"] is None and found["seeds"] > 4
    one_seed = plan(generator.normal(0, 0.2, (1, 20)), smallest_effect=0.05, power=0.8, alpha=0.05)
    assert one_seed["seeds"] is None and one_seed["documents"] > 20
    assert plan(np.zeros((1, 1)), smallest_effect=0.05, power=0.8, alpha=0.05)["documents"] is None
    assert plan(np.ones((1, 5)), smallest_effect=0.05, power=0.8, alpha=0.05)["documents"] == 2


def test_holm_is_over_all_primary_comparisons(tmp_path: Path) -> None:
    results = build(tmp_path, Planted(), arms=("baseline", "mlp_in", "mlp_both", "lift"))["results"]
    p = sorted(claim["p"] for claim in results["primary"])
    assert min(claim["p_adjusted"] for claim in results["primary"]) == pytest.approx(min(1.0, 3 * p[0]))
    assert all(claim["adjustment"] == "Holm over 3 primary comparisons" for claim in results["primary"])


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
