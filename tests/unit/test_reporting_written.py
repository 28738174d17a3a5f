"""What was written reaches the report: every printed number recomputed from planted rows."""

from dataclasses import replace

import numpy as np
import pytest
from isotone.config.data import Pairs
from isotone.config.evaluation import Generation, Perplexity
from isotone.errors import ConfigurationError, InputOutputError
from isotone.reporting.evidence.written import SCORES, read_written
from isotone.reporting.final_results import build, validate
from isotone.reporting.page.html import render
from isotone.reporting.tables.published_t5 import published_meaning, published_t5
from isotone.reporting.tables.study import all_tables, write_tables
from isotone.reporting.tables.table import text_of, to_csv
from scipy import stats
from synthetic_study import Planted, _write_lines, attack_rows, study_settings, write_marker, write_study

DOCUMENTS = 12
OF_COPY = {"rouge1": 70.0, "rouge2": 50.0, "rougeL": 60.0, "rougeLsum": 65.0, "chrf": 68.0}
GAIN = {"baseline": 5.0, "mlp_both": -3.0}  # points over copying


def as_pairs(found, **more):
    """The same study on pairs."""
    architecture = replace(found.model.architecture, family="t5", activation="relu")
    return replace(
        found,
        data=replace(found.data, task="pairs", pairs=Pairs(max_source=64, max_target=64)),
        model=replace(found.model, architecture=architecture),
        perplexity=Perplexity(protocols=["document"]),
        **more,
    )


def study_of():
    found = study_settings(
        arms=("baseline", "mlp_both"), seeds=(7, 8), attacks=("hotflip",), controls=("tempered",), documents=12, resamples=500,
        settings={"hotflip": {"published": True}},
    )  # fmt: skip
    return as_pairs(found)


def rows_of(run, seed):
    """Rows and, by document, the planted gain over copying."""
    spread = np.random.default_rng([seed, *run.encode()]).normal(0, 0.3, DOCUMENTS)
    words = np.random.default_rng(1).integers(8, 30, DOCUMENTS)
    rows = []
    for index in reversed(range(DOCUMENTS)):
        common = {"document": f"verse {index:02d}", "reference_words": int(words[index]), "readable": index != 3}
        hard = float(np.sin(index))  # documents differ more than models, so pairing matters
        copied = {key: value + 20 * hard for key, value in OF_COPY.items()}
        gain = GAIN[run.partition("~")[0]] + float(spread[index])
        rows.append({"system": "copy", "words": int(words[index]) + 4, "output": "a", **copied, **common})
        rows.append(
            {"system": "lead", "words": 5, "output": "a", **{key: value / 2 for key, value in copied.items()}, **common}
        )
        rows.append(
            {"system": "model", "words": int(words[index]) + index % 2, "output": "a", "tokens": 20 + index, "capped": index < 3, "ids": [5]}
            | {key: value + gain for key, value in copied.items()}
            | common
        )  # fmt: skip
    return rows


FALL = {"baseline": 9.0, "mlp_both": 4.0}  # points of a clean output that an attack takes


def after_of(run, seed):
    """Outputs after an attack: half of what an output loses to its reference it also loses to itself."""
    spread = np.random.default_rng([seed, 9, *run.encode()]).normal(0, 0.3, DOCUMENTS)
    rows = []
    for index in reversed(range(DOCUMENTS)):
        fall = FALL[run.partition("~")[0]] + float(spread[index])
        clean = {key: value + 20 * float(np.sin(index)) for key, value in OF_COPY.items()}
        rows.append(
            {"document": f"chapter {index:04d}", "clean_output": "a", "attacked_output": "b", "changed": index > 1}
            | {f"clean_{key}": value for key, value in clean.items()}
            | {f"attacked_{key}": value - fall for key, value in clean.items()}
            | {f"own_{key}": 100 - fall / 2 for key in clean}
        )
    return rows


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    found, folder = study_of(), tmp_path_factory.mktemp("written")
    write_study(folder, found)
    for run, seed in found.runs():
        base = folder / f"runs/{run}/seed-{seed}"
        _write_lines(base / "generation.jsonl", "generation/1", rows_of(run, seed))
        nothing = {"settings": {}, "inputs": {}, "outputs": {}, "result": {}, "cost": {"seconds": 1.0}}
        write_marker(base / "generation.json", "generate", **nothing)
        for attack in found.written_after(run):
            _write_lines(base / f"generation_after/{attack}.jsonl", "generation_after/1", after_of(run, seed))
            write_marker(base / f"generation_after/{attack}.json", "generate_after", **nothing)
    return found, folder


@pytest.fixture(scope="module")
def document(study):
    found = build(*study)
    validate(found)
    return found


def column(run, seed, system, key):
    return np.array([row[key] for row in rows_of(run, seed) if row["system"] == system], float)


def test_scores_are_plain_means_over_documents_and_seeds(document):
    found = document["results"]["generation"]
    assert set(found["arms"]) == {"baseline", "mlp_both", "mlp_both~tempered"}
    assert found["documents"] == DOCUMENTS and found["unreadable"] == 1
    for arm, entry in found["arms"].items():
        for key in SCORES:
            mean = np.mean([column(arm, seed, "model", key) for seed in (7, 8)])
            assert entry[key]["value"] == pytest.approx(mean, rel=1e-9) and entry[key]["n"] == DOCUMENTS
            low, high = entry[key]["interval"]
            assert low < entry[key]["value"] < high
        assert entry["tokens"]["value"] == pytest.approx(20 + (DOCUMENTS - 1) / 2)
        assert entry["capped"]["value"] == 0.25 and entry["capped"]["interval"][0] > 0.05
        words, reference = (column(arm, 7, "model", key).sum() for key in ("words", "reference_words"))
        assert entry["length_ratio"]["value"] == pytest.approx(words / reference)
    for system, factor in (("copy", 1), ("lead", 0.5)):
        for key in SCORES:
            mean = factor * np.mean(column("baseline", 7, "copy", key))
            assert found["systems"][system][key]["value"] == pytest.approx(mean)


def test_differences_are_paired_by_document(document):
    """Documents differ by 14 points, models by their planted gain: only a paired interval is short."""
    found = document["results"]["generation"]["arms"]
    assert found["baseline"]["over_baseline"] is None
    for arm in ("mlp_both", "mlp_both~tempered"):
        for key in SCORES:
            own, base = (np.stack([column(name, seed, "model", key) for seed in (7, 8)]) for name in (arm, "baseline"))
            entry = found[arm]["over_baseline"][key]
            assert entry["value"] == pytest.approx((own - base).mean(), rel=1e-8)
            low, high = entry["interval"]
            unpaired = 2 * stats.sem(own.mean(0)) * stats.t.ppf(0.975, DOCUMENTS - 1)
            assert entry["value"] < high < 0 and high - low < unpaired
            copied = found[arm]["over_copy"][key]
            assert copied["value"] == pytest.approx((own - column(arm, 7, "copy", key)).mean(), rel=1e-8)
    assert (
        found["baseline"]["over_copy"]["chrf"]["interval"][0]
        > 0
        > found["mlp_both"]["over_copy"]["chrf"]["interval"][1]
    )


def test_the_table_shows_baselines_first_and_the_loss_beside(document):
    table = next(table for table in all_tables(document) if table.name == "generation")
    assert [row["arm"] for row in table.rows] == [
        "copy of the source", "lead: first 3 sentences", "baseline", "mlp_both", "mlp_both~tempered",
    ]  # fmt: skip
    results = document["results"]
    row = table.rows[3]
    assert row["nll"] == results["quality"]["mlp_both"]["document"]["nats_per_token"]
    assert row["over_baseline"] == results["generation"]["arms"]["mlp_both"]["over_baseline"]["rougeLsum"]
    assert row["over_copy"] == results["generation"]["arms"]["mlp_both"]["over_copy"]["rougeLsum"]
    assert "4 beams, length penalty 1" in table.note and "no word of 1 references" in table.note
    lines = to_csv(table).splitlines()
    assert len(lines) >= 6 and "nan" not in lines[-1].lower()


def test_outputs_after_an_attack_are_paired_with_their_own_clean_ones(document):
    after = document["results"]["generation"]["after"]
    assert set(after) == {"baseline", "mlp_both", "mlp_both~tempered"}
    falls = {
        arm: np.stack([[row["clean_chrf"] - row["attacked_chrf"] for row in after_of(arm, seed)] for seed in (7, 8)])
        for arm in after
    }
    for arm, attacks in after.items():
        entry = attacks["hotflip"]
        assert entry["variant"] == "greedy"
        assert entry["changed"]["value"] == pytest.approx((DOCUMENTS - 2) / DOCUMENTS)
        assert entry["fall"]["chrf"]["value"] == pytest.approx(falls[arm].mean(), rel=1e-8)
        low, high = entry["fall"]["chrf"]["interval"]
        assert low < entry["fall"]["chrf"]["value"] < high
        assert entry["own"]["chrf"]["value"] == pytest.approx(100 - falls[arm].mean() / 2, rel=1e-8)
        gap = entry["clean"]["chrf"]["value"] - entry["attacked"]["chrf"]["value"]
        assert gap == pytest.approx(falls[arm].mean(), rel=1e-8)
    assert after["baseline"]["hotflip"]["less_than_baseline"] is None
    less = after["mlp_both"]["hotflip"]["less_than_baseline"]["chrf"]
    assert less["value"] == pytest.approx((falls["baseline"] - falls["mlp_both"]).mean(), rel=1e-8)
    assert less["interval"][0] > 0 and less["p"] < 0.05
    table = next(table for table in all_tables(document) if table.name == "generation_after")
    assert [(row["arm"], row["attack"]) for row in table.rows] == [(arm, "hotflip") for arm in after]
    assert table.rows[1]["less"] == after["mlp_both"]["hotflip"]["less_than_baseline"]["rougeLsum"]


def test_the_published_summaries_stand_beside_ours(document):
    tables = {table.name: table for table in all_tables(document)}
    assert "published" not in tables, "Pythia's numbers belong to studies of texts"
    table, results = tables["published_t5"], document["results"]
    assert "arXiv:2602.02686" in table.note and "above 10 %" in table.columns[5].label
    keys = ("arm", "rouge1", "rouge2", "rougeLsum", "success", "degradation")
    assert [tuple(row[key] for key in keys) for row in table.rows[:3]] == [
        ("standard", 32.6, 11.9, 26.6, 0.69, 0.213),
        ("baseline", 30.9, 11.5, 25.0, 0.63, 0.162),
        ("monotone", 29.6, 10.6, 24.2, 0.19, 0.052),
    ]
    assert [row["rouge1"] for row in table.rows[3:6]] == [19.9, 20.0, 18.9]
    ours = {row["arm"]: row for row in table.rows[6:]}
    assert list(ours) == ["baseline", "mlp_both", "mlp_both~tempered"]
    for arm, row in ours.items():
        form = results["damage"][arm]["hotflip"]["published"]
        assert row["rougeLsum"] == results["generation"]["arms"][arm]["rougeLsum"]
        assert row["success"] == form["published_success"] and row["degradation"] == form["published_degradation"]
        rises = [entry["published_degradation"] for entry in attack_rows_of(document, arm)]
        assert row["success"]["value"] == pytest.approx(np.mean([rise > 0.1 for rise in rises]))
        assert row["success"]["threshold"] == 0.1
    said = {row["published"]: row["ours"] for row in tables["published_meaning"].rows}
    assert f"mlp_both {text_of(ours['mlp_both']['success'], 2)}" in said["success 69, 63, 19 %"]
    fall = results["generation"]["after"]["mlp_both~tempered"]["hotflip"]["fall"]["rougeLsum"]
    assert f"mlp_both~tempered {text_of(fall, 1)}" in said["degradation 21.3, 16.2, 5.2 %"]
    assert said["three seeds"].startswith("2 seeds")


def test_the_page_and_the_paper_show_what_was_written(study, document, tmp_path):
    page = render(document, study[1])
    for name in ("generation", "generation_after", "published_t5", "published_meaning"):
        assert f'id="table-{name}"' in page
    score = document["results"]["generation"]["arms"]["mlp_both"]["rougeLsum"]
    assert text_of(score, 1).split(" ")[0] in page
    write_tables(tmp_path / "tables", document)
    assert "copy of the source" in (tmp_path / "tables/generation.csv").read_text()
    assert (tmp_path / "tables/paper/methods.tex").is_file()


def attack_rows_of(document, arm):
    """The planted rows of the published form, first seed."""
    study = study_of()
    return [row for row in attack_rows(study, Planted(), arm, 7, "hotflip") if row["variant"] == "published"]


def test_without_the_published_form_the_table_says_how_to_get_it(document):
    import copy

    other = copy.deepcopy(document["results"])
    for attacks in other["damage"].values():
        del attacks["hotflip"]["published"]
    other["generation"]["after"] = {}
    said = [str(row["ours"]) for row in published_meaning(other).rows]
    assert "not run: attacks.hotflip.published" in said and "not run: generation.attacks" in said
    assert published_t5(other).rows[6]["success"] is None


@pytest.mark.parametrize(
    ("attack", "words"),
    [("gcg", "which is not in attacks.run"), ("uat", "name no changed tokens"), ("noise", "name no changed tokens")],
)
def test_attacks_that_flip_no_tokens_are_refused(attack, words):
    found = study_settings(arms=("baseline",), seeds=(7,), attacks=("hotflip", "uat", "noise"), controls=())
    texts = replace(found, generation=Generation(attacks=[attack]))
    assert texts.written_after("baseline") == [], "a study of texts writes nothing"
    with pytest.raises(ConfigurationError, match=f'generation.attacks has "{attack}", .*{words}'):
        as_pairs(texts)


def test_a_study_of_texts_has_no_such_table(tmp_path):
    found = study_settings(arms=("baseline", "mlp_both"), seeds=(7,), attacks=("hotflip",), documents=12, resamples=200)
    document = build(found, write_study(tmp_path, found))
    assert "generation" not in document["results"]
    assert not {"generation", "generation_after"} & {table.name for table in all_tables(document)}


def test_rows_that_are_missing_or_wrong_are_refused(study, tmp_path):
    found, folder = study
    path = folder / "runs/mlp_both/seed-7/generation.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    try:
        path.write_text("".join(lines[3:]))
        with pytest.raises(ConfigurationError, match=r"generation: document 'verse 11' is missing in .*seed-7"):
            build(found, folder)
        path.write_text("".join(lines + lines[:1]))
        with pytest.raises(InputOutputError, match="document 'verse 11' stands twice under copy"):
            build(found, folder)
        path.write_text(whole.replace('"rouge1":', '"rouge1":"x","old":', 1))
        with pytest.raises(InputOutputError, match="rouge1 is 'x' for document"):
            build(found, folder)
        path.write_text("".join(line for line in lines if '"model"' not in line))
        with pytest.raises(InputOutputError, match="holds no output of a model"):
            read_written(path)
        other = [line.replace('"chrf":', '"chrf":1,"old":') if '"copy"' in line else line for line in lines]
        path.write_text("".join(other))
        with pytest.raises(ConfigurationError, match="hold other sources or references"):
            build(found, folder)
        path.unlink()
        with pytest.raises(ConfigurationError, match=r"generation\.jsonl is missing"):
            build(found, folder)
    finally:
        path.write_text(whole)
