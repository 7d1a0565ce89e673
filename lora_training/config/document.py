"""Read TOML, within limits that recursive code and the writers of files rely on, and write it, with comments."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_training import files, printable, tomls
from lora_training.config import positions
from lora_training.config.positions import Path as KeyPath
from lora_training.errors import ConfigError
from lora_training.problems import Position, Problem

MOST = 4 * 2**20  # bytes; limit for any configuration that is read, which may come through a pipe
DEEPEST = 100
_DEEP = f"arrays or tables nested more than {DEEPEST} deep"
_NAME = 255  # characters
_DOTS = 1000  # on one line
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_WIDTH = 100  # characters of a list on one line
_SURROGATE = re.compile("[\ud800-\udfff]")
_PAIR = re.compile(r"\s*([^=#\s]+)\s*=")
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class Unreadable(ConfigError):
    """The file is not a valid TOML document. `problem` has the details as data."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem), hint=problem.hint)
        self.problem = problem


@dataclass(frozen=True)
class Document:
    """A parsed file with overrides applied.

    `origins` and `texts` have the source and the text of each overridden path.
    """

    data: dict[str, Any]
    positions: Mapping[KeyPath, Position]
    origins: dict[KeyPath, str] = field(default_factory=dict)
    texts: dict[KeyPath, str] = field(default_factory=dict)


def read(path: Path, text: str | None = None) -> Document:
    """Parse a file, or `text` in its place. Raises Unreadable, with line and column if known."""
    text = text_of(path) if text is None else text
    # a key of a thousand parts takes parsers quadratic time
    if any(line.count(".") > _DOTS for line in text.split("\n")):
        raise _unreadable(path, f"it has {_DEEP}, or a line has more than a thousand dots")
    try:
        data = tomls.loads(text)
    except tomls.TOMLDecodeError as exc:
        raise _invalid(path, text, str(exc)) from None
    except RecursionError:
        raise _unreadable(path, f"it has {_DEEP}") from None
    except ValueError:  # an integer of thousands of digits
        raise _unreadable(path, "not valid TOML: it has a number of more than 64 bits") from None
    if (odd := oddity(data)) is not None:
        raise _unreadable(path, f"it has {odd}")
    return Document(data, positions.index(text.replace("\r\n", "\n")))


def _unreadable(path: Path, message: str, hint: str | None = None, place: Position | None = None) -> Unreadable:
    return Unreadable(Problem(message, hint, where=str(path), position=place))


def text_of(path: Path) -> str:
    """Return the text of a file. Raises Unreadable."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except OSError as exc:
        hint = files.alike(path, ".toml", "give the path of a TOML file")
        raise _unreadable(path, f"cannot be read: {exc.strerror}", hint) from None
    if len(data) > MOST:
        raise _unreadable(path, f"cannot be read: it is larger than {MOST} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        column = exc.start - data.rfind(b"\n", 0, exc.start)
        raise _unreadable(path, "not UTF-8", files.as_utf8(path, data), Position(line, column)) from None


def _invalid(path: Path, text: str, message: str) -> Unreadable:
    found = _PLACE.search(message)
    what = message[: found.start()] if found else message
    lines = text.split("\n")
    place = Position(len(lines), len(lines[-1]) + 1) if found else None
    if found and found[1]:
        place = Position(int(found[1]), int(found[2]))
        if what == "Cannot overwrite a value" and (pair := _PAIR.match(lines[place.line - 1])):
            what = f"`{pair[1]}` is given twice in one table"
    hint = "mend that place: a line of TOML is `key = value`, with texts in quotes"
    return _unreadable(path, f"not valid TOML: {what[:1].lower()}{what[1:]}", hint, place)


def texts(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield each string of a parsed document with its path."""
    if isinstance(data, str):
        yield path, data
    elif isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from texts(value, (*path, key))


def value_at(data: Any, path: KeyPath) -> Any:
    """Return the value at a path of a parsed document."""
    for part in path:
        data = data[part]
    return data


def write(path: Path, text: str, *, force: bool) -> None:
    """Write a configuration atomically. Raises ConfigError if the file exists and `force` is not set."""
    if not force and os.path.lexists(path):
        raise ConfigError(f"{path} exists", hint="choose another name, or give --force")
    try:
        files.write(path, text)
    except OSError as exc:
        hint = "its folder must exist, and you must be allowed to write there"
        raise ConfigError(f"cannot write {path}: {exc.strerror}", hint=hint) from None


# -- limits of a parsed document


def oddity(data: Any) -> str | None:
    """Describe a value that no valid configuration has and that could not be written to a file; None without one."""
    level = [data]
    for _ in range(DEEPEST + 1):
        if found := next(filter(None, map(_oddity, level)), None):
            return found
        level = [part for item in level for part in (*(item if isinstance(item, dict) else ()), *_parts(item))]
    return _DEEP if level else None


def _oddity(item: Any) -> str | None:
    if isinstance(item, int) and not -(2**63) <= item < 2**64:
        return "a number of more than 64 bits"
    if isinstance(item, dict) and any(len(str(name)) > _NAME for name in item):
        return f"a name of more than {_NAME} characters"
    if isinstance(item, str) and not item.isascii() and _SURROGATE.search(item):
        return "text that is no Unicode"
    return None


def _parts(item: Any) -> list[Any]:
    return list(item.values()) if isinstance(item, dict) else item if isinstance(item, list) else []


# -- writing


def toml(data: Mapping[str, Any], comments: Mapping[KeyPath, str] | None = None) -> str:
    """Return `data` as TOML, plain values before tables. `comments` maps paths to end-of-line comments.

    Raises TypeError for a value that TOML cannot represent, such as None.
    """
    lines = list(_table(data, (), comments or {}))
    return "\n".join(lines).strip("\n") + "\n"


def _table(data: Mapping[str, Any], path: KeyPath, comments: Mapping[KeyPath, str]) -> Iterator[str]:
    nested = {key: item for key, item in data.items() if isinstance(item, dict) or _is_tables(item)}
    for key, item in data.items():
        if key not in nested:
            yield _line(f"{_key(key)} = {toml_value(item)}", comments.get((*path, key)))
    for key, item in nested.items():
        below = (*path, key)
        name = ".".join(_key(str(part)) for part in below if isinstance(part, str))
        if isinstance(item, dict):
            yield from _header(f"[{name}]", item, below, comments)
        else:
            for number, table in enumerate(item):
                yield from _header(f"[[{name}]]", table, (*below, number), comments)


def _header(text: str, data: Mapping[str, Any], path: KeyPath, comments: Mapping[KeyPath, str]) -> Iterator[str]:
    # a table with only subtables needs no header
    if not data or text.startswith("[[") or not all(isinstance(item, dict) for item in data.values()):
        yield ""
        yield _line(text, comments.get(path))
    yield from _table(data, path, comments)


def _line(text: str, comment: str | None) -> str:
    return f"{text}  # {_one_line(comment)}" if comment else text


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _is_tables(item: Any) -> bool:
    return isinstance(item, list) and bool(item) and all(isinstance(part, dict) for part in item)


def toml_value(item: Any) -> str:
    """Return one value as TOML, on one line unless it is a long list. Raises TypeError for an unsupported type."""
    for kind, form in _FORMS:
        if isinstance(item, kind):
            return form(item)
    raise TypeError(f"TOML has no form for {type(item).__name__}")


def toml_string(text: str) -> str:
    """Return a basic string. JSON's escapes are valid TOML; other unprintable characters are escaped as well."""
    return printable.as_toml(json.dumps(text, ensure_ascii=False))


def _inline(table: dict[str, Any]) -> str:
    return "{ " + ", ".join(f"{_key(k)} = {toml_value(v)}" for k, v in table.items()) + " }" if table else "{}"


def _list(items: list[str]) -> str:
    text = f"[{', '.join(items)}]"
    if len(text) <= _WIDTH or any("\n" in item for item in items):
        return text
    return "[\n" + "".join(f"  {item},\n" for item in items) + "]"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else toml_string(name)


_FORMS: tuple[tuple[Any, Callable[[Any], str]], ...] = (
    (bool, lambda item: "true" if item else "false"),
    (float, repr),
    (str, toml_string),
    (int, str),
    ((list, tuple), lambda item: _list([toml_value(part) for part in item])),
    (dict, _inline),
    ((dt.date, dt.time), lambda item: item.isoformat()),
)


def toml_comment(lines: Iterable[str]) -> str:
    """Return lines as a block of comments."""
    return "".join(f"# {_one_line(line)}".rstrip() + "\n" for line in lines)
