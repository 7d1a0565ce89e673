"""Encode one configuration value as command line arguments, or say why it cannot be encoded."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from lora_training import nearest
from lora_training.config import paths
from lora_training.config.model import Entry
from lora_training.config.positions import Path as KeyPath
from lora_training.config.schema import Flag, reader

# returns a path as upstream gets it; raises UnknownVariable
Resolve = Callable[[Flag, str], str]

_LEGAL = {"int": "a whole number", "float": "a number", "str": "a string", "Path": "a string", None: "a string"}
_WIDEST = 60  # characters of a value in a message
_LITERAL_TABLES = ("optimizer_args", "lr_scheduler_args")  # upstream parses these arguments with ast.literal_eval
TABLES = ("network_args", *_LITERAL_TABLES)  # upstream splits each of these arguments at `=`


class Refused(ValueError):
    """The flag does not take this value. `path` leads from the flag to the invalid part."""

    def __init__(self, message: str, hint: str | None = None, path: KeyPath = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.path = path


def words(flag: Flag, entry: Entry, resolve: Resolve) -> list[str]:
    """Return the arguments that set `flag` to the entry's value; none if the value equals an absent flag.

    Raises Refused for a value of the wrong type or shape, or one that a command line cannot carry.
    """
    value = entry.given(flag)
    if flag.is_switch:
        return _switch(flag, value)
    if flag.is_list:
        return _listed(flag, _items(flag, value, resolve))
    if flag.action == "append":
        return [w for item in _as_list(value) for w in _single(flag, _scalar(flag, item, resolve))]
    return _single(flag, _scalar(flag, value, resolve))


def resolved(flag: Flag, entry: Entry, resolve: Resolve) -> Any:
    """Return the entry's value with paths made absolute, and all other values unchanged.

    Raises Refused for a path that names an unknown variable.
    """
    value = entry.given(flag)
    if not paths.is_path(flag):
        return value
    items = [_path(flag, item, resolve) if isinstance(item, str) else item for item in _as_list(value)]
    return items if isinstance(value, list) else items[0]


def _path(flag: Flag, text: str, resolve: Resolve, path: KeyPath = ()) -> str:
    try:
        return resolve(flag, text)
    except paths.UnknownVariable as exc:
        raise Refused(f"`{flag.dest}`: {exc}", exc.hint, path) from None


def _switch(flag: Flag, value: Any) -> list[str]:
    if not isinstance(value, bool):
        raise Refused(f"`{flag.dest}` must be true or false, not {_shown(value)}")
    if flag.action == "boolean_optional":
        return [flag.options[0] if value else next(o for o in flag.options if o.startswith("--no-"))]
    if value == bool(flag.const):
        return [flag.name]
    if value != bool(flag.default):
        raise Refused(f"`{flag.dest}` cannot be turned off: it is on by default and upstream has no flag against it")
    return []


def _items(flag: Flag, value: Any, resolve: Resolve) -> list[str]:
    if isinstance(value, dict):
        return _pairs(flag, value)
    items = _as_list(value)
    if isinstance(flag.nargs, int) and len(items) != flag.nargs:
        raise Refused(f"`{flag.dest}` takes {flag.nargs} values, not {len(items)}")
    if flag.nargs == "+" and not items:
        raise Refused(f"`{flag.dest}` takes at least one value")
    found = [_scalar(flag, item, resolve, (n,)) for n, item in enumerate(items)]
    for number, word in enumerate(found if flag.dest in TABLES else ()):
        if "=" not in word:
            hint = "better still, make it a table with lines key = value"
            raise Refused(f"an item of `{flag.dest}` must be key=value, not {word!r}", hint, (number,))
    return found


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _pairs(flag: Flag, table: dict[str, Any]) -> list[str]:
    if flag.type not in ("str", None):
        raise Refused(f"`{flag.dest}` takes {_legal(flag)}, not a table")
    return [_pair(flag, key, value) for key, value in table.items()]


def _pair(flag: Flag, key: str, value: Any) -> str:
    if not key or "=" in key:
        raise Refused(f"{key!r} cannot be a name in `{flag.dest}`", path=(key,))
    literal = flag.dest in _LITERAL_TABLES
    text = _pair_value(value, (key,), literal=literal)
    if literal and "=" in text:
        raise Refused(f"`{flag.dest}.{key}` holds a `=`, which upstream cannot split", path=(key,))
    return f"{key}={_argument(text, (key,))}"


def _pair_value(value: Any, path: KeyPath, *, literal: bool) -> str:
    if isinstance(value, str):
        return repr(value) if literal and not _is_literal(value) else value
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str | bool | int | float) for item in value):
        text = ",".join(_pair_value(item, path, literal=literal) for item in value)
        # a sequence of one item needs a trailing comma
        return f"{text}," if literal and len(value) == 1 else text or "()" * literal
    raise Refused(
        f"{_shown(value)} cannot be written as key=value", "give a number, a string, a switch or a list", path
    )


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _scalar(flag: Flag, value: Any, resolve: Resolve, path: KeyPath = ()) -> str:
    """Return the argument for one value, after checking its type and choices."""
    text = _typed(flag, value, path)
    if flag.choices is not None and not reader.is_choice(flag, text):
        legal = [choice for choice in flag.choices if choice is not None]
        near = nearest.name(text, map(str, legal))
        hint = (f"did you mean {near!r}? " if near else "") + f"legal: {', '.join(map(str, legal))}"
        raise Refused(f"`{flag.dest}` cannot be {_shown(value)}", hint, path)
    return _argument(_path(flag, text, resolve, path) if paths.is_path(flag) else text, path)


def _typed(flag: Flag, value: Any, path: KeyPath) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    kinds: dict[str | None, bool] = {"int": is_number and isinstance(value, int), "float": is_number}
    is_right = isinstance(value, str) if flag.type in ("str", "Path", None) else is_number or isinstance(value, str)
    if not kinds.get(flag.type, is_right):
        raise Refused(f"`{flag.dest}` must be {_legal(flag)}, not {_shown(value)}", _hint(flag, value), path)
    if is_number and not math.isfinite(value):
        raise Refused(f"`{flag.dest}` cannot be {_shown(value)}: it must be finite", path=path)
    text = value if isinstance(value, str) else _number(value)
    reason = reader.refusal(flag, text)
    if reason is not None and isinstance(value, float) and value.is_integer():
        # upstream's int_or_float() accepts 1 and 0.5, and fails on 1.0
        text, reason = str(int(value)), reader.refusal(flag, str(int(value)))
    if reason is not None:
        raise Refused(f"`{flag.dest}` cannot be {_shown(value)}: {reason}", path=path)
    return text


def _legal(flag: Flag) -> str:
    return _LEGAL.get(flag.type, f"what upstream's {flag.type}() takes")


def _hint(flag: Flag, value: Any) -> str | None:
    if isinstance(value, str) and flag.type in ("int", "float") and reader.refusal(flag, value) is None:
        return f"write it without quotes: {value}"
    if isinstance(value, int | float) and not isinstance(value, bool) and flag.type in ("str", None):
        return f'write it in quotes: "{value}"'
    if isinstance(value, list) and flag.type in ("str", None) and all(isinstance(v, int | float) for v in value):
        return f'write it in quotes: "{",".join(map(str, value))}"'
    return None


def _number(value: float) -> str:
    """Format a number so that argparse does not take it for a flag, as it does `-1e-05`; `-0.00001` is safe."""
    text = str(value)
    return format(Decimal(text), "f") if "e" in text and text.startswith("-") else text


def _argument(text: str, path: KeyPath) -> str:
    if "\0" in text:
        raise Refused("a command line cannot carry a NUL character", path=path)
    if text == "--":
        raise Refused("upstream's parser cannot take `--` for a value", path=path)
    return text


def _single(flag: Flag, word: str) -> list[str]:
    # argparse would read `--flag -x` as two flags
    return [f"{flag.name}={word}"] if word.startswith("-") else [flag.name, word]


def _listed(flag: Flag, items: list[str]) -> list[str]:
    if len(items) == 1:
        return _single(flag, items[0])
    for number, word in enumerate(items):
        if word.startswith("-") and not reader.is_negative_number(word):
            message = f"an item of `{flag.dest}` cannot start with `-`, which upstream takes for another flag: {word!r}"
            raise Refused(message, path=(number,))
    return [flag.name, *items]


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
