"""Validation of a runtime patch's settings: a table of the configuration against a frozen dataclass.

A field's type is `bool`, `int`, `float`, `str`, `tuple[int, ...]` or a Literal of strings. `limits` sets bounds.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lora_training import nearest
from lora_training.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class Problem:
    """A problem in a table of settings; `key` is None when it concerns the whole table."""

    key: str | None
    message: str
    hint: str | None = None


def limits(default: Any = dataclasses.MISSING, *, least: float | None = None, most: float | None = None) -> Any:
    """Declare a field with inclusive bounds."""
    return dataclasses.field(default=default, metadata={"least": least, "most": most})


def parse(name: str, kind: type, table: Mapping[str, Any]) -> Any:
    """Return an instance of `kind` made from `[runtime.NAME]`. Raises ConfigError that lists every problem."""
    found = list(problems(kind, table))
    if found:
        what = "; ".join(problem.message for problem in found)
        hints = [problem.hint for problem in found if problem.hint]
        raise ConfigError(f"[runtime.{name}]: {what}", hint="\n".join(hints) or None)
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


def problems(kind: type, table: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield every problem in a table of settings for `kind`."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    types = typing.get_type_hints(kind)
    for key, value in table.items():
        if key not in fields:
            yield Problem(
                key,
                f"there is no setting `{key}`",
                nearest.hint(key, fields) or f"it has: {', '.join(fields) or 'no settings'}",
            )
        elif wrong := _wrong(types[key], value, fields[key].metadata):
            yield Problem(key, f"`{key}` must be {wrong}, not {value!r}")
    for key, field in fields.items():
        if key not in table and field.default is dataclasses.MISSING:
            yield Problem(None, f"the setting `{key}` is missing")


def _wrong(kind: Any, value: Any, bounds: Mapping[str, Any]) -> str | None:
    """Describe the expected value, or return None when `value` is valid."""
    if typing.get_origin(kind) is Literal:
        words = typing.get_args(kind)
        return None if value in words else " or ".join(f'"{word}"' for word in words)
    if typing.get_origin(kind) is tuple:
        whole = isinstance(value, (list, tuple)) and value and all(_is_a(int, each) for each in value)
        return None if whole else "a list of whole numbers"
    if not _is_a(kind, value):
        return {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}[kind]
    return None if kind not in (int, float) else _out_of_bounds(value, bounds.get("least"), bounds.get("most"))


def _is_a(kind: type, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, kind)


def _out_of_bounds(value: float, least: float | None, most: float | None) -> str | None:
    if (least is None or value >= least) and (most is None or value <= most):
        return None
    if most is None:
        return f"at least {least}"
    return f"from {least} to {most}"
