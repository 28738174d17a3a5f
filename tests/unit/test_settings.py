"""The settings: closed, documented, all of them read, and equal to what is published."""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from isotone.config.training import Training
from isotone.errors import ConfigurationError
from isotone.schema import as_mapping, merge, parse, schema_of
from isotone.studies import document
from isotone.studies.study import Study, read_study

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = {"study": "x", "arms": {"baseline": {}}}


def settings_classes(cls: type = Study, seen: set[type] | None = None) -> Iterator[type]:
    seen = set() if seen is None else seen
    if cls in seen:
        return
    seen.add(cls)
    yield cls
    for hint in typing.get_type_hints(cls).values():
        for inner in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(inner):
                yield from settings_classes(inner, seen)


def test_published_schema_and_readme_follow_from_the_settings() -> None:
    assert (ROOT / "config/schema.yaml").read_text() == document.schema_yaml(), "run: make schema"
    assert (ROOT / "config/README.md").read_text() == document.readme(), "run: make schema"


def test_every_key_is_read_somewhere() -> None:
    """A field that no code outside its definition names is a promise that nobody keeps."""
    sources = [*(ROOT / "scripts").rglob("*.py")]
    names: set[str] = set()
    for path in sources:
        tree = ast.parse(path.read_text())
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    for cls in settings_classes():
        for field in dataclasses.fields(cls):
            assert field.name in names or f".{field.name}" in rules, f"{cls.__name__}.{field.name} is read nowhere"


def test_every_key_is_described() -> None:
    for cls in settings_classes():
        for field in dataclasses.fields(cls):
            assert field.metadata.get("description"), f"{cls.__name__}.{field.name} has no description"


def test_every_object_of_the_schema_is_closed() -> None:
    for cls in settings_classes():
        assert schema_of(cls)["additionalProperties"] is False


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    if path.name == "schema.yaml":
        return
    study = read_study(yaml.safe_load(path.read_text()), path.name)
    assert study.arms and study.runs()


def test_settings_survive_their_own_json() -> None:
    study = read_study(
        MINIMAL | {"arms": {"baseline": {}, "m": {"constraint": {"scope": "mlp_in", "init": "abs"}}}}, "x"
    )
    assert read_study(as_mapping(study), "again") == study


def test_an_arms_training_lies_on_top_of_the_studys() -> None:
    raw = MINIMAL | {"training": {"epochs": 7}, "arms": {"baseline": {}, "m": {"training": {"faults": {"skips": 5}}}}}
    study = read_study(raw, "x")
    assert study.training_of("m").epochs == 7
    assert study.training_of("m").faults.skips == 5 != study.training_of("baseline").faults.skips


def test_a_null_arm_is_left_out() -> None:
    assert list(read_study(MINIMAL | {"arms": {"baseline": {}, "m": None}}, "x").arms) == ["baseline"]


def test_runs_hold_arms_seeds_and_controls() -> None:
    raw = MINIMAL | {
        "seeds": [1, 2],
        "arms": {"baseline": {}, "m": {"constraint": {"scope": "mlp_in", "init": "abs"}, "seeds": "once"}},
        "controls": {"kinds": ["tempered"]},
    }
    assert read_study(raw, "x").runs() == [("baseline", 1), ("baseline", 2), ("m", 1), ("m~tempered", 1)]


def test_constraint_without_a_start_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs non-negative weights"):
        read_study(MINIMAL | {"arms": {"baseline": {}, "m": {"constraint": {"scope": "mlp_in"}}}}, "x")


def test_exact_reduction_needs_a_power_of_two_of_leaves() -> None:
    with pytest.raises(ConfigurationError, match="power-of-two"):
        parse(Training, {"global_batch": 12, "micro_batch_size": 4})
    assert parse(Training, {"global_batch": 12, "micro_batch_size": 4, "reduction": "fast"}).micro_batch_size == 4


def test_merge_replaces_lists_and_merges_sections() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "l": [1, 2]}, {"a": {"y": 3}, "l": [9]}) == {"a": {"x": 1, "y": 3}, "l": [9]}
