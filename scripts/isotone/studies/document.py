"""The published forms of the settings: config/schema.yaml and config/README.md."""

from __future__ import annotations

from typing import Any

import yaml

from isotone.schema import schema_of
from isotone.studies.study import Study

HEADER = "# Made by `make schema` from the typed settings in scripts/isotone/config/. Do not edit.\n"

INTRODUCTION = """# Configuration

Made by `make schema` from the typed settings; do not edit.

One YAML file is one study. Without `--configfile` it is `config/config.yaml`. A second file after it is an overlay:
sections are merged, lists and values are replaced, and an arm set to `null` is left out:

```
snakemake --profile profiles/local --configfile config/pythia-70m.yaml my-overlay.yaml
```

Every key is checked before any job starts, and unknown keys are errors. The merged configuration is saved as
`results/<study>/config.yaml`. Devices, partitions, processes and `max_epochs_per_run` are not settings: they change no
result and stand in the profile.

An arm is a named combination of a constraint and, where it differs, training settings:

```yaml
arms:
  baseline: {}
  mlp_both:
    constraint: {scope: mlp_both, map: softplus, init: abs}
    training: {learning_rate: 5.0e-5}
```

## Keys
"""


def schema_yaml() -> str:
    """The closed JSON Schema of a study, as YAML."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An Isotone study",
        **schema_of(Study),
    }
    return HEADER + yaml.safe_dump(schema, sort_keys=False, width=110, allow_unicode=True)


def _type(entry: dict[str, Any]) -> str:
    if "enum" in entry:
        return " \\| ".join(f"`{value}`" for value in entry["enum"])
    if entry.get("type") == "array":
        return f"list of {_type(entry['items'])}"
    if "anyOf" in entry:
        return " or ".join(_type(option) for option in entry["anyOf"])
    kind = {"integer": "whole number", "string": "text", "boolean": "true/false", "object": "mapping"}
    limits = [f"{sign} {entry[key]:g}" for key, sign in LIMITS.items() if key in entry]
    return ", ".join([kind.get(entry.get("type", ""), entry.get("type", "any")), *limits])


LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _default(entry: dict[str, Any]) -> str:
    if "default" not in entry:
        return "**required**"
    value = entry["default"]
    return '`""`' if value == "" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _tables(schema: dict[str, Any], path: str) -> list[str]:
    scalars, sections = [], []
    for key, entry in schema["properties"].items():
        name = f"{path}.{key}" if path else key
        if entry.get("type") == "object" and "properties" in entry:
            sections.append((name, entry))
        elif entry.get("type") == "object" and "properties" in entry.get("additionalProperties", {}):
            sections.append((f"{name}.<name>", entry["additionalProperties"] | {"description": entry["description"]}))
        else:
            scalars.append(f"| `{key}` | {_type(entry)} | {_default(entry)} | {entry['description']} |")
    lines = []
    if scalars:
        lines += ["| key | value | default | meaning |", "|---|---|---|---|", *scalars, ""]
    for name, entry in sections:
        lines += [f"### `{name}`", "", _sentence(entry.get("description", "")), "", *_tables(entry, name)]
    return lines


def readme() -> str:
    """config/README.md: every key with its type, default and meaning."""
    return INTRODUCTION + "\n" + "\n".join(_tables(schema_of(Study), "")).rstrip() + "\n"
