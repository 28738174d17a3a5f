"""From typed settings to a closed JSON Schema, and from user input back to settings.

A settings class is a frozen dataclass whose fields are made with `setting`: type,
default and description stand in one place. `schema_of` derives the JSON Schema
(published as config/schema.yaml), `parse` validates a mapping against it and
builds the dataclass. Unknown keys are errors, with a suggestion.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import jsonschema

from isotone.errors import ConfigurationError

T = TypeVar("T")
_REQUIRED = dataclasses.MISSING


def setting(default: Any = _REQUIRED, description: str = "", *, quiet: bool = False, **limits: Any) -> Any:
    """A dataclass field with its description and JSON Schema limits.

    Args:
        default: the value when the key is absent; a list, dict or dataclass is
            copied per instance. Left out: the key is required.
        quiet: left out of `as_mapping` while it has its default, so that a new setting changes no digest
            of a study that does not use it.
        limits: JSON Schema keywords (``minimum``, ``enum``, ``pattern`` ...); those of a
            list's items stand in ``items``.
    """
    metadata = {"description": description, "limits": limits, "quiet": quiet}
    if default is _REQUIRED:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section(cls: type[T], description: str = "", *, quiet: bool = False) -> Any:
    """A field that holds another settings class, with that class's defaults; ``quiet`` as in `setting`."""
    return dataclasses.field(default_factory=cls, metadata={"description": description, "limits": {}, "quiet": quiet})


_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean"}


def _type_schema(hint: Any) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return schema_of(typing.cast(type, hint))
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if origin is list:
        return {"type": "array", "items": _type_schema(args[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type_schema(args[1])}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if arg is type(None) else _type_schema(arg) for arg in args]}
    if hint is Any:
        return {}
    raise TypeError(f"settings cannot hold {hint!r}")


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _narrowed(entry: dict[str, Any], items: dict[str, Any]) -> dict[str, Any]:
    """``entry`` with limits on the items of its list, also where the list is one of several options."""
    if entry.get("type") == "array":
        return entry | {"items": entry["items"] | items}
    if "anyOf" in entry:
        return entry | {"anyOf": [_narrowed(option, items) for option in entry["anyOf"]]}
    return entry


@functools.cache
def schema_of(cls: type) -> dict[str, Any]:
    """The closed JSON Schema (draft 2020-12) of a settings class, defaults included."""
    hints = typing.get_type_hints(cls)
    properties, required = {}, []
    for field in dataclasses.fields(cls):
        limits = dict(field.metadata.get("limits", {}))
        items = limits.pop("items", {})
        entry = {"description": field.metadata.get("description", "")}
        entry |= _narrowed(_type_schema(hints[field.name]), items) | limits
        if field.default is not dataclasses.MISSING:
            entry["default"] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            entry["default"] = _plain(field.default_factory())
        else:
            required.append(field.name)
        properties[field.name] = entry
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return schema | ({"required": required} if required else {})


# Keys and values that were called otherwise in version 0.1, and what they are called now.
RENAMED = {
    "leaf": "micro_batch_size",
    "clip": "max_grad_norm",
    "start": "init",
    "nulls": "controls",
    "reference": "baseline",
    "candidates": "search_width",
    "top": "topk",
    "doubling": "fresh_starts",
}
RENAMED_VALUES = {"leaf": "fixed"}


def suggestion(word: str, known: typing.Iterable[str]) -> str:
    """``' Did you mean "..."?'`` for the nearest known word, or the list of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else f" Known here: {', '.join(known)}."


def _joined(path: typing.Iterable[Any]) -> str:
    """``a.b[2].c`` for the keys and positions on the way to a value."""
    words = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return words.removeprefix(".")


def _key(error: jsonschema.ValidationError, where: str) -> str:
    path = _joined(error.absolute_path)
    return f"{where}: {path}" if path else where


WORDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "array": "list",
    "object": "section of keys with values",
}


def _form(error: jsonschema.ValidationError) -> str:
    """The right way to write a value of another type than was given, where it can be told."""
    value, wanted = error.instance, error.validator_value
    if wanted == "array" and not isinstance(value, Mapping):
        return f" Write it in brackets: [{value}]."
    if wanted == "string" and isinstance(value, (int, float)):
        return " Put it in quotes."
    if wanted in ("integer", "number") and isinstance(value, str):
        return " Write a number, without quotes."
    return ""


def _unknown_key(error: jsonschema.ValidationError, where: str) -> str:
    known = error.schema.get("properties", {})
    extra = next(str(key) for key in error.instance if key not in known)
    if RENAMED.get(extra) in known:
        return f'{_key(error, where)} has the key "{extra}", which is called "{RENAMED[extra]}" now. Rename it.'
    return f'{_key(error, where)} has the unknown key "{extra}".{suggestion(extra, known)}'


def _paragraph(error: jsonschema.ValidationError, where: str) -> str:
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        return _unknown_key(error, where)
    if error.instance is None:
        return f"{_key(error, where)} is empty. Leave the key out to get its default, or give it a value."
    if error.validator in ("minItems", "minProperties"):
        return f"{_key(error, where)} is {error.instance!r}, which holds nothing. Name at least one."
    if error.validator == "type" and error.validator_value in WORDS:
        return f"{_key(error, where)} is {error.instance!r}, which is no {WORDS[error.validator_value]}.{_form(error)}"
    if error.validator == "enum":
        renamed = RENAMED_VALUES.get(str(error.instance))
        if renamed in error.validator_value:
            return f'{_key(error, where)} is {error.instance!r}, which is called "{renamed}" now. Rename it.'
        near = suggestion(str(error.instance), map(str, error.validator_value))
        return f"{_key(error, where)} is {error.instance!r}, which is not one of the choices.{near}"
    if error.validator == "required":
        return f"{_key(error, where)}: {error.message}. Add the key."
    description = error.schema.get("description", "") if isinstance(error.schema, Mapping) else ""
    return f"{_key(error, where)} is {error.instance!r}: {error.message}." + (
        f" ({description})" if description else ""
    )


EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")


def _meant(schema: Mapping[str, Any], value: Any) -> Any:
    """``value`` with the texts that are numbers: YAML reads 1e-5, without a point, as text."""
    if isinstance(value, Mapping):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        others = others if isinstance(others, Mapping) else {}
        return {key: _meant(properties.get(key, others), entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_meant(schema.get("items", {}), entry) for entry in value]
    types = [option.get("type") for option in (schema, *schema.get("anyOf", ()))]
    return float(value) if isinstance(value, str) and "number" in types and EXPONENT.fullmatch(value) else value


def _refuse_odd_numbers(value: Any, where: str, path: tuple[Any, ...] = ()) -> None:
    """Refuse what JSON Schema lets through: .nan passes every limit, and 2^64 fits into no machine's integer."""
    if isinstance(value, (Mapping, list)):
        for key, entry in value.items() if isinstance(value, Mapping) else enumerate(value):
            _refuse_odd_numbers(entry, where, (*path, key))
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"{where}: {_joined(path)} is {value}. Give a finite number.")
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        raise ConfigurationError(f"{where}: {_joined(path)} is {value}. Give a whole number below 2^63.")


def check(cls: type, value: Any, where: str) -> Any:
    """Validate ``value`` against the schema of ``cls``; returns it with the numbers that YAML takes for text.

    Raises:
        ConfigurationError: one paragraph on the most telling violation.
    """
    value = _meant(schema_of(cls), value)
    _refuse_odd_numbers(value, where)
    errors = list(jsonschema.Draft202012Validator(schema_of(cls)).iter_errors(value))
    if errors:
        raise ConfigurationError(_paragraph(jsonschema.exceptions.best_match(errors), where) + " See config/README.md.")
    return value


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) is list


def _build(hint: Any, value: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return typing.cast(type, hint)(**{key: _build(hints[key], entry) for key, entry in value.items()})
    if origin is list:
        return [_build(args[0], entry) for entry in value]
    if origin is dict:
        return {key: _build(args[1], entry) for key, entry in value.items()}
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        lists = isinstance(value, list)
        return _build(next(arg for arg in args if arg is not type(None) and lists == _is_list(arg)), value)
    return hint(value) if hint in (int, float) else value  # 3.0 is a whole number, and 3 a number


def parse(cls: type[T], value: Any, where: str = "settings") -> T:
    """Validate a mapping and build the settings class from it.

    Args:
        where: what the user called this input (a file name, an option), for messages.

    Raises:
        ConfigurationError: unknown key, wrong type or a value out of range.
    """
    value = check(cls, value, where)
    try:
        return _build(cls, value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None


def as_mapping(settings: Any) -> dict[str, Any]:
    """Every setting, defaults included but quiet ones, as plain data (what ``params`` and digests use)."""
    return {
        field.name: _as_plain(getattr(settings, field.name))
        for field in dataclasses.fields(settings)
        if not (field.metadata.get("quiet") and getattr(settings, field.name) == _default_of(field))
    }


def _default_of(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _as_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_mapping(value)
    if isinstance(value, (list, tuple)):
        return [_as_plain(entry) for entry in value]
    return {key: _as_plain(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``overrides`` on top, section by section."""
    merged = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged
