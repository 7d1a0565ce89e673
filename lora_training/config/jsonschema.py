"""JSON Schema of the configuration file for one script, for completion and checks in editors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lora_training.config import tables
from lora_training.config.argv import REFUSED
from lora_training.config.schema import Flag, Schema, Shape, Table, scripts

_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean", "dict": "object", "Path": "string"}


def of(schema: Schema, runtime: Iterable[str]) -> dict[str, Any]:
    """Return the JSON Schema (draft 7, which Taplo supports) of a configuration for the schema's script."""
    flags = {flag.dest: _flag(flag) for flag in schema.flags if flag.dest not in REFUSED}
    style = schema.datasets.styles["dreambooth"]
    subsets = [_table(s.subset) for s in schema.datasets.styles.values()]
    dataset = _table(style.dataset)
    dataset["properties"] |= {"subsets": {"type": "array", "items": {"anyOf": subsets}}}
    own = {
        "script": {
            "enum": list(scripts(schema.tree)) if schema.tree else [],
            "description": "which of upstream's scripts trains",
        },
        "datasets": {"type": "array", "items": dataset},
        "general": _table(schema.datasets.general),
        **{name: _closed({key: each["schema"] for key, each in keys.items()}) for name, keys in tables.TABLES.items()},
        "runtime": _closed({name: {"type": ["boolean", "object"]} for name in runtime}),
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"lora configuration for {schema.script}",
        "type": "object",
        "required": ["script"],
        "properties": {**flags, **own},
        # any other table groups upstream's flags under a heading
        "additionalProperties": {"$ref": "#/definitions/flags"},
        "definitions": {"flags": _closed(flags)},
    }


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _flag(flag: Flag) -> dict[str, Any]:
    shape = {"type": "boolean"} if flag.is_switch else _scalar(flag)
    if flag.is_list or flag.action == "append":
        options = [shape, {"type": "array", "items": shape}]
        options += [{"type": "object"}] if flag.type in ("str", None) else []
        shape = {"anyOf": options}
    if flag.default is not None:
        shape["default"] = flag.default
    if flag.help:
        shape["description"] = flag.help
    return shape


def _scalar(flag: Flag) -> dict[str, Any]:
    if flag.choices is not None:
        return {"enum": [choice for choice in flag.choices if choice is not None]}
    if flag.type is None or flag.type in _TYPES:
        return {"type": _TYPES[flag.type or "str"]}
    return {"type": ["number", "string"]}


def _table(table: Table) -> dict[str, Any]:
    return _closed({key: _shape(shape) for key, shape in table.keys.items()}) | {"required": list(table.required)}


def _shape(shape: Shape) -> dict[str, Any]:
    options: list[dict[str, Any]] = [{"type": _TYPES[name]} for name in shape.scalars if name in _TYPES]
    if shape.sequence:
        items = [{"type": _TYPES[name]} for name in shape.sequence]
        options.append({"type": "array", "items": items, "minItems": len(items), "maxItems": len(items)})
    return options[0] if len(options) == 1 else {"anyOf": options}
