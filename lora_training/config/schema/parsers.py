"""From an argparse parser to its flags as plain data."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from lora_training.config.schema.flags import Flag
from lora_training.config.schema.values import Function, Symbol, SymbolCall

if TYPE_CHECKING:
    import argparse

_ACTIONS = {
    "_StoreAction": "store",
    "_StoreConstAction": "store_const",
    "_StoreTrueAction": "store_true",
    "_StoreFalseAction": "store_false",
    "_AppendAction": "append",
    "_AppendConstAction": "append_const",
    "_CountAction": "count",
    "_ExtendAction": "extend",
    "BooleanOptionalAction": "boolean_optional",
}


def of_parser(parser: argparse.ArgumentParser) -> tuple[Flag, ...]:
    """The flags of a parser in the order of their definition, without `-h`."""
    hidden = ("_HelpAction", "_VersionAction")
    return tuple(_flag(a) for a in parser._actions if type(a).__name__ not in hidden)  # noqa: SLF001 - argparse has no public list


def _flag(action: argparse.Action) -> Flag:
    options = tuple(action.option_strings)
    name = next((o for o in options if o.startswith("--")), options[0] if options else action.dest)
    kind = type(action).__name__
    return Flag(
        name=name,
        dest=action.dest,
        type=_type_name(action.type),
        default=plain(action.default),
        choices=None if action.choices is None else tuple(plain(c) for c in action.choices),
        nargs=action.nargs,
        action=_ACTIONS.get(kind, kind),
        help=action.help if isinstance(action.help, str) else None,
        required=action.required,
        const=plain(action.const),
        options=options,
        type_source=action.type.source if isinstance(action.type, Function) else None,
    )


def _type_name(kind: Any) -> str | None:
    if kind is None or isinstance(kind, str):
        return kind
    if isinstance(kind, Symbol):
        return kind.name.rpartition(".")[2]
    return getattr(kind, "__name__", None) or getattr(kind, "function", type(kind).__name__)


def plain(value: Any) -> Any:
    """`value` as JSON has it: tuples as lists, paths as text, anything else as the text that stands for it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | set | frozenset | range):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, pathlib.PurePath):
        return str(value)
    return value.name if isinstance(value, Symbol) else value.function if isinstance(value, SymbolCall) else str(value)
