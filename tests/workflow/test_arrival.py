"""Every setting arrives: with each key off its default, some job's command carries the new value; and commands fit their programs."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shlex
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from isotone.schema import as_mapping, merge, schema_of
from isotone.studies.study import Study, read_study

ROOT = Path(__file__).resolve().parents[2]
REPORTING = {"aggregate", "figures", "report"}  # they are given the whole study

# Where just any value off the default would break another rule of the settings, one that fits.
CHOSEN: dict[str, Any] = {
    "study": "arrival",
    "seeds": [7, 8],
    "model": {
        "source": "scratch",
        "name": "some/model",
        "architecture": {
            "family": "llama",
            "hidden": 96,
            "heads": 6,
            "activation": "silu",
            "context": 512,
            "vocabulary": 900,
        },
    },
    "base": {"training": {"epochs": 4.25, "milestones": [0.25, 0.5]}},
    "data": {
        "source": "hub",
        "name": "some/text",
        "task": "text",
        "source_column": "",
        "group_column": "",
        "pairs": {"prefix": "", "max_source": 512, "max_target": 128, "too_long": "cut"},
        "alternatives": [{"source": "embedded"}],
        "splits": {"train": 0.5, "validation": 0.06, "test": 0.07, "attack_search": 0.08, "attack_test": ["heldout"]},
    },
    "training": {
        "global_batch": 8,
        "micro_batch_size": 4,
        "reduction": "fast",
        "compression": "bf16",
        "length": 128,
        "warm_up": 0.3,
        "hold": 0.4,
        "milestones": [0.25],
    },
    "arms": {
        "other": {},
        "changed": {
            "constraint": {"scope": "gated_all", "cone": "strict", "init": "nnls", "layers": [1]},
            "training": {"epochs": 3.25},
        },
    },
    "perplexity": {"protocols": ["document", "rolling"]},
    "attacks": {
        "run": ["hotflip", "uat", "query", "random", "gcg", "noise", "soft", "strongest"],
        "transfer": ["hotflip"],
        "hotflip": {"iterative": True, "flips": 7},
        "query": {"flips": 7},
        "strongest": {"members": ["hotflip", "query"]},
    },
    "controls": {"kinds": ["noised", "early"], "attacks": ["random"]},
    "generation": {"attacks": ["query"]},
    "report": {"baseline": "other", "thresholds": [0.3]},
    "operation": {"criteria": [{"measure": "memory", "limit": 3}]},
}
# On top of it: the settings of pairs, which a study of texts has to leave alone.
PAIRED: dict[str, Any] = {
    "model": {"architecture": {"family": "t5", "activation": "relu"}},
    "data": {
        "task": "pairs",
        "source_column": "article",
        "group_column": "paper",
        "messages": "",
        "score": "all",
        "pairs": {"prefix": "shorten: ", "max_source": 100, "max_target": 40, "too_long": "leave_out"},
    },
    "arms": {"changed": {"constraint": {"scope": "mlp_both", "cone": "elementwise"}}},
    "perplexity": {"protocols": ["document"]},
    "attacks": {"run": ["hotflip", "query", "random"], "shared": {"threat_model": "tokens"}},
}
NAMES_JOBS = {  # what says which jobs there are; the next test but one looks for them
    "arms.*.seeds",
    "attacks.run",
    "attacks.transfer",
    "controls.kinds",
    "controls.attacks",
    "controls.match",
    "order_preservation.run",
    "report.baseline",
}
CALLED = {
    "order_preservation": "order",
    "controls": "",
    "data": "",
    "training": "",
    "constraint": "",
    "base.seed": "base_seed",
}


def off(entry: dict[str, Any], path: str) -> Any:
    """A value that is allowed and is not the default; each seed is another one."""
    default, number = entry.get("default"), zlib.crc32(path.encode())
    if path.endswith("seed"):
        return 1000 + number % 100_000
    if "enum" in entry:
        return next(choice for choice in entry["enum"] if choice != default)
    if entry.get("type") == "boolean":
        return not default
    if entry.get("type") == "integer":
        return int(default or 0) + 1 + number % 7
    if entry.get("type") == "number":
        top = entry.get("maximum", entry.get("exclusiveMaximum"))
        return (float(default) + float(top)) / 2 if top is not None else float(default) * 1.5 + 0.25
    return f"text-{number % 1000}"


def off_default(schema: dict[str, Any], path: str = "") -> dict[str, Any]:
    """A section with every key off its default; lists and mappings come from `CHOSEN`."""
    found: dict[str, Any] = {}
    for key, entry in schema["properties"].items():
        if "properties" in entry:
            found[key] = off_default(entry, f"{path}.{key}")
        elif key == "arms":
            found[key] = {"changed": off_default(entry["additionalProperties"], key)}
        elif entry.get("type") not in ("array", "object"):
            found[key] = off(entry, f"{path}.{key}")
    return found


def changed_study() -> dict[str, Any]:
    """A whole study with every key off its default."""
    return merge(off_default(schema_of(Study)), CHOSEN)


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a schema with its default."""
    for key, entry in schema["properties"].items():
        name = f"{path}.{key}".strip(".")
        if "properties" in entry:
            yield from leaves(entry, name)
        elif "properties" in (entry.get("additionalProperties") or {}):
            yield from leaves(entry["additionalProperties"], f"{name}.*")
        else:
            yield name, entry.get("default")


def commands(configuration: dict[str, Any], folder: Path) -> list[list[str]]:
    """The command of every job that Snakemake would start."""
    path = folder / "arrival.yaml"
    path.write_text(yaml.safe_dump(configuration))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "-p", "--quiet", "host", "--configfile", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = re.findall(r"^\s*(?:Shell command: )?exec (.*)$", done.stdout + done.stderr, re.M)
    assert len(lines) >= 30
    return [shlex.split(line.split(" >> ")[0].replace("$(dirname", "").replace(")", "")) for line in lines]


def program_of(words: list[str]) -> str:
    return next(Path(word).stem for word in words if word.startswith("scripts/"))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[list[list[str]]]]:
    """Studies with every key off its default (a model made here, one of the hub, one of pairs), and their commands."""
    scratch = changed_study()
    other_form = {"one_shot": True, "iterative": False}
    hub = merge(
        scratch,
        {
            "model": {"source": "hub"},
            "attacks": {"hotflip": other_form},
            "controls": {"kinds": ["noised", "early"], "match": "attacked", "revisions": ["step1", "step2"]},
        },
    )
    folder = tmp_path_factory.mktemp("arrival")
    studies = [scratch, hub, merge(scratch, PAIRED)]
    return studies, [commands(study, folder) for study in studies]


def carried(given: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a job's settings under its path, sections as well."""
    if path:
        yield path, given
    if isinstance(given, dict):
        for key, value in given.items():
            yield from carried(value, f"{path}.{key}".strip("."))


def value_at(study: dict[str, Any], path: str) -> Any:
    for key in path.split("."):
        study = study.get("changed" if key == "*" else key, {})
    return study


def test_every_key_arrives_in_some_job(planned: tuple[list[dict[str, Any]], list[list[list[str]]]]) -> None:
    """The last two words of a key, with its changed value, stand in the settings of a job that computes something."""
    studies, plans = planned
    arrived: set[tuple[str, str]] = set()
    reported: set[tuple[str, str]] = set()
    for words in (words for plan in plans for words in plan):
        if "--settings" not in words:
            continue
        known = reported if program_of(words) in REPORTING else arrived
        for path, value in carried(json.loads(words[words.index("--settings") + 1])):
            for depth in (1, 2):
                known.add((".".join(path.split(".")[-depth:]), json.dumps(value, sort_keys=True)))
    missing = []
    filled = [as_mapping(read_study(study, "arrival")) for study in studies]
    for path, default in leaves(schema_of(Study)):
        if path.startswith("operation.") or path in NAMES_JOBS:
            continue
        key, values = path, [value_at(study, path) for study in filled]
        if path.endswith(".training"):  # laid on top of the study's own
            key, default, values = "training.epochs", None, [value["epochs"] for value in values]
        values = [value for value in values if value not in (default, {})]
        if path == "controls.seed":  # each run's control has its own draw
            values = [value + CHOSEN["seeds"][0] for value in values]
        assert values, f"{path} is at its default in this test"
        where = reported if path.split(".")[0] in ("report", "study", "seeds") else arrived
        section, _, name = ".".join(key.replace(".*", "").split(".")[-2:]).rpartition(".")
        names = {f"{section}.{name}".strip("."), f"{CALLED.get(section, section)}.{name}".strip("."), CALLED.get(path)}
        if not any((spelt, json.dumps(value, sort_keys=True)) in where for spelt in names for value in values):
            missing.append(path)
    assert not missing, f"no job is told of: {', '.join(missing)}"


def test_what_names_jobs_names_them(planned: tuple[Any, list[list[list[str]]]]) -> None:
    told = [" ".join(words) for words in planned[1][0]]
    attacks = {words[words.index("--attack") + 1] for words in planned[1][0] if program_of(words) == "attack"}
    attacks |= {program_of(words) for words in planned[1][0]} & {"strongest"}
    assert attacks == set(CHOSEN["attacks"]["run"]), "attacks.run"
    assert any("runs/other/seed-7/model" in words and "changed~noised" in words for words in told), "report.baseline"
    controls = [["--documents" in words for words in plan if "--arm" in words] for plan in planned[1][:2]]
    assert controls[0] and controls[1] and not any(controls[0]) and all(controls[1]), "controls.match"
    assert any("changed~noised" in words and "--attack random" in words for words in told), "controls.attacks"
    assert not any("runs/changed/seed-8" in words for words in told), "arms.*.seeds: once"
    assert any("scripts/transfer.py" in words and "--attack hotflip" in words for words in told), "attacks.transfer"
    assert any("scripts/order_preservation.py" in words for words in told), "order_preservation.run"


def options_of(program: str) -> dict[str, bool]:
    """The options that a program declares, and whether each is required."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / f"scripts/{program}.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            required = any(
                word.arg == "required" and isinstance(word.value, ast.Constant) and word.value.value is True
                for word in node.keywords
            )
            found[ast.literal_eval(node.args[0])] = required
    return found


BY_HAND = {  # options for people, which no rule passes
    "tokenize_split": {"--processes"},
    "transfer": {"--target-names", "--calibrations"},
    "aggregate": {"--studies", "--comparison"},
}


def test_the_command_of_every_rule_fits_its_program(planned: tuple[Any, list[list[list[str]]]]) -> None:
    """No option that the program lacks, none that it needs left out, and none declared that no rule ever passes."""
    used: dict[str, set[str]] = {}
    for words in (words for plan in planned[1] for words in plan):
        name = program_of(words)
        given = {word for word in words if re.fullmatch(r"--[a-z][a-z-]*", word)}
        declared = options_of(name)
        assert given <= set(declared), f"{name}.py has no {given - set(declared)}"
        needed = {option for option, required in declared.items() if required}
        assert needed <= given, f"{name}.py needs {needed - given}"
        used.setdefault(name, set()).update(given)
    assert len(used) >= 12
    for name, given in used.items():
        spare = set(options_of(name)) - given - BY_HAND.get(name, set())
        assert not spare, f"no rule passes {spare} to {name}.py"


def test_the_study_of_this_test_is_one() -> None:
    study = read_study(changed_study(), "arrival")
    assert (
        dataclasses.is_dataclass(study) and as_mapping(study)["arms"]["changed"]["constraint"]["scope"] == "gated_all"
    )
