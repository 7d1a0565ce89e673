"""A script's flags and dataset tables, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

# a subset has the first style whose key it has, as in upstream
STYLE_KEYS = {"controlnet": "conditioning_data_dir", "finetuning": "metadata_file", "dreambooth": "image_dir"}
_PUBLIC = ("name", "dest", "type", "default", "choices", "nargs", "action", "help", "required", "const", "defined_in")


@dataclass(frozen=True)
class Flag:
    """One flag of a script, in argparse's terms.

    `name` is its first long option. `type` is the name of its type function (None: a string, or no value at all).
    `default`, `const` and `choices` hold JSON values, or the source text of objects outside the tree. `type_source` is
    the source of a type function that upstream defines. `defined_in` is the upstream function that adds the flag.
    """

    name: str
    dest: str
    type: str | None
    default: Any
    choices: tuple[Any, ...] | None
    nargs: str | int | None
    action: str
    help: str | None
    required: bool = False
    const: Any = None
    options: tuple[str, ...] = ()
    type_source: str | None = None
    defined_in: str | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Flag:
        """Return the flag that the reader describes in JSON values."""
        choices = raw["choices"]
        return cls(**{**raw, "choices": None if choices is None else tuple(choices), "options": tuple(raw["options"])})

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value."""
        return self.nargs == 0 or self.action == "boolean_optional"

    @property
    def is_list(self) -> bool:
        """Whether the flag takes any number of values."""
        return self.nargs in ("*", "+") or (isinstance(self.nargs, int) and self.nargs > 0)

    @property
    def takes_text(self) -> bool:
        """Whether the flag takes one string, without conversion."""
        return not self.is_switch and not self.is_list and self.type in ("str", "Path", None)

    @property
    def summary(self) -> str:
        """The flag in one line: its key, type, choices and default."""
        kind = "switch" if self.is_switch else (self.type or "str") + ("*" if self.is_list else "")
        choices = f" ({', '.join(str(c) for c in self.choices if c is not None)})" if self.choices else ""
        default = "" if self.default in (None, False) else f" = {self.default!r}"
        return f"{self.dest}: {kind}{choices}{default}"

    def public(self) -> dict[str, Any]:
        """Return the fields that `lora config schema --json` documents."""
        return {name: getattr(self, name) for name in _PUBLIC}


@dataclass(frozen=True)
class Shape:
    """The accepted values of a key: names of scalar types, and optionally a sequence of fixed length."""

    scalars: tuple[str, ...]
    sequence: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the shape as shown in messages: `int or [int, int]`."""
        sequence = [f"[{', '.join(self.sequence)}]"] if self.sequence else []
        return " or ".join([*(s for s in self.scalars if s != "none"), *sequence])


@dataclass(frozen=True)
class Table:
    """The keys of a table, and which of them are required."""

    keys: dict[str, Shape]
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class Style:
    """The keys of a dataset of one style and of its subsets."""

    dataset: Table
    subset: Table


@dataclass(frozen=True)
class DatasetSchema:
    """The tables that upstream accepts in a dataset configuration: `[general]`, and each style of `[[datasets]]`."""

    general: Table
    styles: dict[str, Style]


@dataclass(frozen=True)
class Schema:
    """The flags and dataset tables that one script accepts.

    `bucket_reso_steps` must be divisible by `bucket_steps`; `tree` is the folder that was read, if it still exists.
    """

    script: str
    flags: tuple[Flag, ...] = field(repr=False)
    datasets: DatasetSchema = field(repr=False)
    bucket_steps: int = 1
    tree: Path | None = field(default=None, compare=False)

    @cached_property
    def keys(self) -> dict[str, Flag]:
        """The keys that a configuration may use: each flag's dest, in the order of upstream's parser."""
        return {flag.dest: flag for flag in self.flags}

    def flag(self, key: str) -> Flag | None:
        """Return the flag for a key: its dest, or any of its options with or without dashes."""
        return self.keys.get(key) or self._options.get(key.lstrip("-").replace("-", "_"))

    @cached_property
    def _options(self) -> dict[str, Flag]:
        return {option.lstrip("-").replace("-", "_"): flag for flag in self.flags for option in flag.options}


def from_json(data: dict[str, Any], tree: Path) -> Schema:
    """Return the schema of a script from JSON values."""
    tables = data["datasets"]
    styles = {name: Style(_table(raw["dataset"]), _table(raw["subset"])) for name, raw in tables["styles"].items()}
    datasets = DatasetSchema(_table(tables["general"]), styles)
    return Schema(data["script"], tuple(map(Flag.of, data["flags"])), datasets, data["bucket_steps"], tree)


def _table(raw: dict[str, Any]) -> Table:
    shapes = {key: Shape(tuple(s["scalars"]), tuple(s["sequence"])) for key, s in raw["keys"].items()}
    return Table(shapes, tuple(raw["required"]))
