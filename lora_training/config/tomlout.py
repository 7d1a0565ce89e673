"""Write TOML files with comments."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from lora_training import printable
from lora_training.config.positions import Path

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_WIDTH = 100


def document(data: Mapping[str, Any], comments: Mapping[Path, str] | None = None) -> str:
    """Return `data` as TOML, plain values before tables. `comments` maps paths to end-of-line comments.

    Raises TypeError for a value that TOML cannot represent, such as None.
    """
    lines = list(_table(data, (), comments or {}))
    return "\n".join(lines).strip("\n") + "\n"


def _table(data: Mapping[str, Any], path: Path, comments: Mapping[Path, str]) -> Iterator[str]:
    nested = {key: item for key, item in data.items() if isinstance(item, dict) or _is_tables(item)}
    for key, item in data.items():
        if key not in nested:
            yield _line(f"{_key(key)} = {value(item)}", comments.get((*path, key)))
    for key, item in nested.items():
        below = (*path, key)
        name = ".".join(_key(str(part)) for part in below if isinstance(part, str))
        if isinstance(item, dict):
            yield from _header(f"[{name}]", item, below, comments)
        else:
            for number, table in enumerate(item):
                yield from _header(f"[[{name}]]", table, (*below, number), comments)


def _header(text: str, data: Mapping[str, Any], path: Path, comments: Mapping[Path, str]) -> Iterator[str]:
    # a table with only subtables needs no header
    if not data or text.startswith("[[") or not all(isinstance(item, dict) for item in data.values()):
        yield ""
        yield _line(text, comments.get(path))
    yield from _table(data, path, comments)


def _line(text: str, comment: str | None) -> str:
    return f"{text}  # {_one_line(comment)}" if comment else text


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text)


def _is_tables(item: Any) -> bool:
    return isinstance(item, list) and bool(item) and all(isinstance(part, dict) for part in item)


def value(item: Any) -> str:
    """Return one value as TOML, on one line unless it is a long list. Raises TypeError for an unsupported type."""
    for kind, form in _FORMS:
        if isinstance(item, kind):
            return form(item)
    raise TypeError(f"TOML has no form for {type(item).__name__}")


def string(text: str) -> str:
    """Return a basic string. JSON's escapes are valid TOML; other unprintable characters are escaped as well."""
    return printable.as_toml(json.dumps(text, ensure_ascii=False))


def _inline(table: dict[str, Any]) -> str:
    return "{ " + ", ".join(f"{_key(k)} = {value(v)}" for k, v in table.items()) + " }" if table else "{}"


def _list(items: list[str]) -> str:
    text = f"[{', '.join(items)}]"
    if len(text) <= _WIDTH or any("\n" in item for item in items):
        return text
    return "[\n" + "".join(f"  {item},\n" for item in items) + "]"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else string(name)


_FORMS: tuple[tuple[Any, Callable[[Any], str]], ...] = (
    (bool, lambda item: "true" if item else "false"),
    (float, repr),
    (str, string),
    (int, str),
    ((list, tuple), lambda item: _list([value(part) for part in item])),
    (dict, _inline),
    ((dt.date, dt.time), lambda item: item.isoformat()),
)


def comment(lines: Iterable[str]) -> str:
    """Return lines as a block of comments."""
    return "".join(f"# {_one_line(line)}".rstrip() + "\n" for line in lines)
