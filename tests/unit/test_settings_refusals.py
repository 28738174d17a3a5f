"""What a person can get wrong in a configuration file, each answered by one paragraph that says the right form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from isotone.errors import ConfigurationError
from isotone.schema import RENAMED, schema_of
from isotone.studies.reading import read_mapping, read_overlays
from isotone.studies.study import Study, read_study


def study(**more: Any) -> Study:
    return read_study({"study": "x", "arms": {"baseline": {}}, **more}, "x.yaml")


def refused(**more: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        study(**more)
    return str(caught.value)


TYPOS = [
    ({"perplexity": {"protocols": ["roling"]}}, "perplexity.protocols[0]", "rolling"),
    ({"attacks": {"run": ["random", "hotflp"]}}, "attacks.run[1]", "hotflip"),
    ({"attacks": {"transfer": ["hotfilp"]}}, "attacks.transfer[0]", "hotflip"),
    ({"controls": {"kinds": ["temperd"]}}, "controls.kinds[0]", "tempered"),
    ({"controls": {"attacks": ["querry"]}}, "controls.attacks[0]", "query"),
    (
        {"operation": {"criteria": [{"measure": "througput", "limit": 1}]}},
        "operation.criteria",
        "throughput",
    ),
    ({"operation": {"criteria": [{"mesure": "memory"}]}}, "operation.criteria[0]", "measure"),
    ({"data": {"alternatives": [{"source": "locl"}]}}, "data.alternatives[0].source", "local"),
    ({"data": {"splits": {"validaton": 0.1}}}, "data.splits", "validation"),
    ({"arms": {"baseline": {"constraint": {"scope": "mlp_bot"}}}}, "arms.baseline.constraint.scope", "mlp_both"),
    ({"arms": {"baseline": {"training": {"epoch": 2}}}}, "arms.baseline.training", "epochs"),
    ({"base": {"training": {"faults": {"skip": 2}}}}, "base.training: faults", "skips"),
    ({"report": {"baseline": "basline"}}, "report.baseline", "baseline"),
]


@pytest.mark.parametrize(("more", "where", "meant"), TYPOS, ids=[where for _, where, _ in TYPOS])
def test_a_typo_is_answered_with_its_place_and_what_was_meant(more: dict, where: str, meant: str) -> None:
    said = refused(**more)
    assert said.startswith("x.yaml") and where in said and f'Did you mean "{meant}"?' in said


def lists(schema: dict[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    """Every list of the schema with the schema of its items."""
    found: dict[str, dict[str, Any]] = {}
    for option in (schema, *schema.get("anyOf", ())):
        if option.get("type") == "array":
            found[path] = option["items"]
            found |= lists(option["items"], f"{path}[]")
        for key, entry in option.get("properties", {}).items():
            found |= lists(entry, f"{path}.{key}".strip("."))
        if isinstance(option.get("additionalProperties"), dict):
            found |= lists(option["additionalProperties"], f"{path}.*")
    return found


def test_the_items_of_every_list_are_limited() -> None:
    """A list of bare texts or numbers would take any typo and any number."""
    found = lists(schema_of(Study))
    assert {"seeds", "perplexity.protocols", "controls.kinds", "data.splits.test", "arms.*.constraint.layers"} <= set(
        found
    )
    for path, items in found.items():
        limited = set(items) & {"enum", "minimum", "exclusiveMinimum", "minLength", "additionalProperties"}
        assert limited, f"the items of {path} are not limited: {items}"


def test_a_member_of_an_ensemble_that_does_not_run_is_checked_too() -> None:
    said = refused(attacks={"strongest": {"members": ["hotflop", "gcg"]}})
    assert 'attacks.strongest.members has "hotflop"' in said and 'Did you mean "hotflip"?' in said


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"seeds": [-1]}, "seeds[0]"),
        ({"training": {"milestones": [1.5]}}, "training.milestones[0]"),
        ({"report": {"thresholds": [0.1, 0]}}, "report.thresholds[1]"),
        ({"arms": {"baseline": {"constraint": {"layers": [-1]}}}}, "arms.baseline.constraint.layers[0]"),
        ({"data": {"splits": {"test": [""]}}}, "data.splits.test[0]"),
        ({"data": {"seed": -1}}, "data.seed"),
        ({"base": {"seed": -1}}, "base.seed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_number_out_of_range_in_a_list_is_refused_at_its_place(more: dict, where: str) -> None:
    assert f"x.yaml: {where} is " in refused(**more)


OLD = [
    ({"training": {"leaf": 4}}, "micro_batch_size"),
    ({"training": {"clip": 1}}, "max_grad_norm"),
    ({"base": {"training": {"leaf": 4}}}, "micro_batch_size"),
    ({"arms": {"baseline": {"training": {"clip": 1}}}}, "max_grad_norm"),
    ({"arms": {"baseline": {"constraint": {"start": "abs"}}}}, "init"),
    ({"nulls": {"kinds": []}}, "controls"),
    ({"report": {"reference": "baseline"}}, "baseline"),
]


@pytest.mark.parametrize(("more", "new"), OLD, ids=[f"{index}-{new}" for index, (_, new) in enumerate(OLD)])
def test_an_old_key_is_answered_with_the_new_one(more: dict, new: str) -> None:
    said = refused(**more)
    assert f'which is called "{new}" now. Rename it.' in said and "Did you mean" not in said
    assert {new for _, new in OLD} <= set(RENAMED.values())


def test_an_old_value_is_answered_with_the_new_one() -> None:
    assert "training.micro_batch is 'leaf', which is called \"fixed\" now" in refused(training={"micro_batch": "leaf"})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate is nan. Give a finite number."),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate is inf. Give a finite number."),
        ({"report": {"thresholds": [float("nan")]}}, "report.thresholds[0] is nan."),
        ({"seeds": [2**64]}, "seeds[0] is 18446744073709551616. Give a whole number below 2^63."),
        ({"data": {"documents": 2**63}}, "Give a whole number below 2^63."),
        ({"arms": {"baseline": {"training": {"epochs": float("nan")}}}}, "epochs is nan"),
        ({"training": None}, "training is empty. Leave the key out"),
        ({"training": {"epochs": None}}, "training.epochs is empty."),
        ({"seeds": 42}, "seeds is 42, which is no list. Write it in brackets: [42]."),
        ({"perplexity": {"protocols": "rolling"}}, "Write it in brackets: [rolling]."),
        ({"seeds": ["42"]}, "seeds[0] is '42', which is no whole number. Write a number, without quotes."),
        ({"seeds": [True]}, "seeds[0] is True, which is no whole number."),
        ({"report": {"title": 2024}}, "report.title is 2024, which is no text. Put it in quotes."),
        ({"training": {"compile": "yes"}}, "training.compile is 'yes', which is no true or false."),
        ({"arms": {"baseline": None}}, "arms is {}, which holds nothing. Name at least one."),
        ({"study": True}, "study is True, which is no text."),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_values_that_yaml_lets_through_are_answered_with_the_right_form(more: dict, words: str) -> None:
    assert words in refused(**more)


def test_an_exponent_without_a_point_is_a_number_where_one_is_asked_for() -> None:
    found = study(training={"learning_rate": "1e-5"}, data={"splits": {"test": "5e-2"}}, report={"title": "1e-5"})
    assert found.training.learning_rate == 1e-5 and found.data.splits.test == 0.05 and found.report.title == "1e-5"
    assert (
        study(arms={"baseline": {"training": {"learning_rate": "2E-4"}}}).training_of("baseline").learning_rate == 2e-4
    )
    assert "no whole number" in refused(data={"documents": "1e3"})


def test_a_whole_number_with_a_point_is_whole() -> None:
    documents = study(data={"documents": 3.0}).data.documents
    assert documents == 3 and isinstance(documents, int)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("study: x\nseeds: [1]\nseeds: [2]\n", 'the key "seeds" is given twice (line 2 and line 3)'),
        ("arms:\n  a: {}\n  a: {seeds: once}\n", 'the key "a" is given twice'),
        ('{"study": "x", "study": "y"}', 'the key "study" is given twice'),
        ("study: x\narms:\n\ta: {}\n", "never with tabs"),
        ("- study: x\n", "holds no settings"),
        ("", "holds no settings"),
        ("study: {", "is not YAML"),
        ("\x00\x01", "is not YAML"),
    ],
    ids=["twice", "arm-twice", "json-twice", "tab", "list", "empty", "cut-off", "binary"],
)
def test_a_file_that_is_no_mapping_is_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_mapping(write(tmp_path / "a.yaml", text))
    assert words in str(caught.value) and str(tmp_path / "a.yaml") in str(caught.value)


def test_files_as_people_write_them_are_read(tmp_path: Path) -> None:
    plain = {"study": "x", "arms": {"a": {}}}
    for text in (
        "\ufeffstudy: x\narms: {a: {}}\n",
        "study: x\r\narms: {a: {}}\r\n",
        '{"study": "x",\t"arms": {"a": {}}}',
    ):
        assert read_mapping(write(tmp_path / "a.yaml", text)) == plain
    anchors = "one: &one {a: 1, b: 2}\ntwo:\n  <<: *one\n  b: 3\n"
    assert read_mapping(write(tmp_path / "a.yaml", anchors))["two"] == {"a": 1, "b": 3}
    write(tmp_path / "b.yaml", "arms: {a: {seeds: once}, b: null}\n")
    overlaid = read_overlays([write(tmp_path / "a.yaml", "study: x\narms: {a: {}}\n"), tmp_path / "b.yaml"])
    assert overlaid == {"study": "x", "arms": {"a": {"seeds": "once"}, "b": None}}
    with pytest.raises(ConfigurationError, match=r"no-such\.yaml cannot be read"):
        read_mapping(tmp_path / "no-such.yaml")


HUB = {"source": "hub", "name": "some/model", "revision": "main"}


@pytest.mark.parametrize(
    ("model", "controls", "words"),
    [
        (HUB, {"kinds": ["early"], "revisions": ["step1"]}, "it has 1. Name revisions of the model in controls.revisions"),
        (HUB, {"kinds": ["tempered"], "revisions": ["step1", "step2"]}, 'controls.kinds lacks "early"'),
        (HUB, {"kinds": ["early"], "revisions": ["step1", "main"]}, 'has "main", which is the model itself'),
        (HUB, {"kinds": ["early"], "revisions": ["step 1", "step2"]}, "controls.revisions[0]"),
        ({}, {"kinds": ["early"], "revisions": ["step1", "step2"]}, 'model.source is "scratch"'),
        ({"source": "local", "path": "x"}, {"kinds": ["early"]}, "it has 0. Add arms without a constraint"),
    ],
)  # fmt: skip
def test_revisions_that_are_no_curve_are_refused(model: dict, controls: dict, words: str) -> None:
    assert words in refused(model=model, controls=controls, base={"training": {"milestones": [0.25, 0.5]}})


def test_arms_that_were_trained_less_make_a_curve_of_any_model() -> None:
    short = {"training": {"epochs": 0.1}}
    arms = {
        "baseline": {},
        "short": short,
        "shorter": {"training": {"epochs": 0.05}},
        "mlp_in": {"constraint": {"scope": "mlp_in", "init": "abs"}},
    }
    found = study(model={"source": "local", "path": "x"}, controls={"kinds": ["early"]}, arms=arms)
    assert found.shorter_arms() == ["short", "shorter"] and found.curve_runs() == []
    said = refused(
        model={"source": "local", "path": "x"}, controls={"kinds": ["early"]}, arms={"baseline": {}, "short": short}
    )
    assert "it has 1. Add arms" in said


def test_revisions_are_points_of_the_curve() -> None:
    found = study(model=HUB, controls={"kinds": ["early"], "revisions": ["step1", "step2"]})
    assert found.curve_runs() == ["baseline~early-step1", "baseline~early-step2"]
    assert found.seeds_of("baseline~early-step1") == [42]
