"""Python's own things that reading may use: pure builtins, argparse, enum and paths without their files."""

from __future__ import annotations

import argparse
import enum
import pathlib
import string
import sys
from typing import Any

from lora_training.config.schema.values import Class, Symbol

_BUILTINS: dict[str, Any] = {
    function.__name__: function
    for function in (
        *(abs, all, any, bool, dict, enumerate, filter, float, frozenset, int, isinstance, len, list, map, max),
        *(min, object, range, reversed, round, set, sorted, str, sum, tuple, zip),
    )
}
_NATIVE = {
    "argparse": argparse,
    "enum": enum,
    "pathlib": pathlib,
    "string": string,
    "sys.platform": sys.platform,
    "sys.version_info": sys.version_info,
}
_PARSER_ACTIVE = frozenset(
    {"convert_arg_line_to_args", "error", "exit", "parse_args", "parse_known_args", "print_help"}
)
_DATA = (str, bytes, int, float, bool, list, tuple, dict, set, frozenset, range, enum.Enum, pathlib.PurePath)
_ARGPARSE = (argparse.ArgumentParser, argparse.Action, argparse._ArgumentGroup, argparse.Namespace)  # noqa: SLF001 - groups have no public name


def native(name: str) -> Any:
    """What a dotted name outside the tree stands for: the real thing where that is harmless, else a Symbol."""
    if name in _NATIVE:
        return _NATIVE[name]
    head, _, attribute = name.rpartition(".")
    if head in {"argparse", "enum", "pathlib", "string"} and not attribute.startswith("_"):
        return getattr(_NATIVE[head], attribute, Symbol(name))
    return Symbol(name)


def builtin(name: str) -> Any:
    """A builtin by name; one that is not pure is a Symbol, and so is an exception."""
    return _BUILTINS.get(name, Symbol(f"builtins.{name}"))


def is_builtin(function: Any) -> bool:
    """Whether it is one of the pure builtins."""
    return function in _BUILTINS.values()


def is_parser_part(value: Any) -> bool:
    """Whether it is a parser, an action, a group or a namespace."""
    return isinstance(value, _ARGPARSE)


def is_harmless(value: Any, name: str) -> bool:
    """Whether looking up `value.name` tells something and does nothing."""
    if isinstance(value, _ARGPARSE):
        return name not in _PARSER_ACTIVE
    if isinstance(value, pathlib.PurePath):
        return not name.startswith("_") and hasattr(pathlib.PurePath, name)
    if isinstance(value, type):
        return issubclass(value, (enum.Enum, str, dict, argparse.ArgumentParser))
    return isinstance(value, _DATA) and not name.startswith("_")


class CustomAction(argparse.Action):
    """Stands for an action class of the tree's own."""

    def __call__(self, *_args: Any, **_kwargs: Any) -> None:
        """Never called: nothing is parsed here."""


def arguments(function: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords of a call, with a stand-in for an action class that argparse could not take."""
    if getattr(function, "__name__", "") == "add_argument" and isinstance(kwargs.get("action"), Class | Symbol):
        return kwargs | {"action": CustomAction}
    return kwargs
