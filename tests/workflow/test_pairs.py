"""A small study of pairs goes from two translations to the report, and again to the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from isotone.schema import merge

from tests.workflow.conftest import ROOT, copy_checkout, planned, run

# As config/t5-smoke.yaml, with the fewest jobs that still pass through every stage.
FEWER: dict[str, Any] = {
    "seeds": [42],
    "attacks": {"run": ["hotflip", "random"], "transfer": ["hotflip"]},
    "operation": {"attack_jobs": "seed"},
}


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkout in which the study is complete, and its configuration."""
    folder = copy_checkout(root, tmp_path_factory.mktemp("pairs") / "checkout")
    config = folder / "config" / "few-pairs.yaml"
    config.write_text(yaml.safe_dump(merge(yaml.safe_load((ROOT / "config/t5-smoke.yaml").read_text()), FEWER)))
    done = run(folder, "scripts/run_study.py", str(config), seconds=1500)
    logs = "".join(path.read_text()[-800:] for path in (folder / "results").rglob("*.log")) if done.returncode else ""
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + logs[-4000:]
    return folder, config


@pytest.mark.timeout(1600)
def test_a_study_of_pairs_reaches_its_report(finished: tuple[Path, Path]) -> None:
    study = finished[0] / "results" / "t5-smoke"
    data = json.loads((study / "data/train/data.json").read_text())
    assert data["task"] == "pairs" and data["source_tokens"] > data["documents"] > 100
    manifest = json.loads((study / "data/attack/manifest.json").read_text())
    assert manifest["eos"] == data["eos"] and manifest["start"] == data["start"]

    results = json.loads((study / "final_results.json").read_text())["results"]
    base, fitted = (
        json.loads((study / f"runs/{arm}/seed-42/train.json").read_text())["result"] for arm in ("baseline", "mlp_both")
    )
    for trained in (base, fitted):
        assert trained["final_loss"] < trained["start_loss"] and trained["bitwise"]
    certificate = json.loads((study / "runs/mlp_both/seed-42/certificate.json").read_text())
    assert certificate["verdict"] == "certified" and not certificate["vacuous"], (
        "ReLU behind RMSNorm: it says something"
    )
    stacks = {layer["sublayer"].split(".")[0] for layer in certificate["layers"]}
    assert stacks == {"encoder", "decoder"} and all(layer["negatives"] == 0 for layer in certificate["layers"])
    for arm in ("baseline", "mlp_both"):
        quality = results["quality"][arm]["document"]
        assert 1 < quality["nats_per_token"]["value"] < 6.24  # log of the vocabulary: it has learned something
        assert quality["documents"] == 16 and quality["excluded"] == 0
        for attack, form in (("hotflip", "greedy"), ("random", "best_of_n")):
            assert results["damage"][arm][attack][form]["J"]["value"] > 0
    rows = [
        json.loads(line) for line in (study / "runs/baseline/seed-42/attacks/hotflip.jsonl").read_text().splitlines()
    ]
    rows = [row for row in rows if "flips" in row]
    assert rows and all(row["self"] == 0 and row["J"] == pytest.approx(row["total"]) for row in rows)
    page = (study / "report.html").read_text()
    assert 'id="table-quality"' in page and "mlp_both" in page


@pytest.mark.timeout(600)
def test_nothing_is_left_to_do_and_lost_sources_are_made_again(finished: tuple[Path, Path]) -> None:
    folder, config = finished
    assert planned(folder, configfile=str(config)) == {}
    sources = folder / "results/t5-smoke/data/validation/sources.bin"
    before = sources.read_bytes()
    sources.unlink()
    assert planned(folder, configfile=str(config)).get("tokenize") == 1
    target = str(sources.relative_to(folder))
    done = run(folder, "-m", "snakemake", target, "--profile", "profiles/local", "--configfile", str(config))
    assert done.returncode == 0, done.stderr[-2000:]
    assert sources.read_bytes() == before
