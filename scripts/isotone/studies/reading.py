"""Configuration files: read strictly, and laid on top of each other."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from isotone.errors import ConfigurationError
from isotone.schema import merge
from isotone.studies.study import Study, read_study


class _Strict(yaml.SafeLoader):
    """YAML that refuses a key given twice; the usual loaders keep the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        _insist_on_one((key.value, f"line {key.start_mark.line + 1}") for key in keys)
        return super().construct_mapping(node, deep)


def _insist_on_one(keys: Iterable[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for key, place in keys:
        if key in seen:
            both = f" ({seen[key]} and {place})" if place else ""
            raise ConfigurationError(f'the key "{key}" is given twice{both}. Keep one of them.')
        seen[key] = place


def _pairs(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    _insist_on_one((key, "") for key, _ in pairs)
    return dict(pairs)


def read_mapping(path: Path) -> dict[str, Any]:
    """One configuration file, YAML or JSON.

    Raises:
        ConfigurationError: it cannot be read, holds no mapping, or gives a key twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        try:
            found = json.loads(text, object_pairs_hook=_pairs)
        except ValueError:
            found = yaml.load(text, Loader=_Strict)  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{path} is not YAML: {reason}. Indent with spaces, never with tabs.") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path} holds no settings: at the top it needs keys with values, such as `study: x`.")
    return found


def refuse_target(path: Path) -> None:
    """A result among the configuration files was meant as a target.

    Raises:
        ConfigurationError: with what to type instead.
    """
    if Path(path).suffix not in (".yaml", ".yml") and Path(path).resolve().is_relative_to(Path("results").resolve()):
        raise ConfigurationError(
            f"{path} was read as a configuration, since --configfile takes every word behind it. "
            "Put -- in front of a target: snakemake --configfile config/smoke.yaml -- results/smoke/report.html"
        )


def read_overlays(paths: Iterable[Path]) -> dict[str, Any]:
    """Configuration files on top of each other, the last one uppermost.

    Raises:
        ConfigurationError: as `read_mapping`.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_mapping(path))
    return merged


def study_of(paths: Iterable[Path | str]) -> Study:
    """The study that configuration files describe together.

    Raises:
        ConfigurationError: if one cannot be read, or what they say together is wrong.
    """
    files = [Path(path) for path in paths]
    os.environ["ISOTONE_CONFIGFILE"] = shlex.join(map(str, files))  # what messages advise is typed as it stands
    return read_study(read_overlays(files), ", ".join(map(str, files)))
