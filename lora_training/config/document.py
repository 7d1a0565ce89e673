"""Read a configuration file (bytes, text, TOML) and apply overrides to it."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_training import tomls
from lora_training.config import nesting, positions
from lora_training.errors import ConfigError
from lora_training.problems import Position, Problem
from lora_training.workspace import CACHE_VARIABLE, HOME_VARIABLE, RUNS_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from lora_training.config.positions import Path as KeyPath

PREFIX = "LORA_"
# These are not overrides: three name folders, IMAGE marks the container image, and the supervisor passes the others to
# the training process.
RESERVED = frozenset({HOME_VARIABLE, CACHE_VARIABLE, RUNS_VARIABLE}) | {
    f"LORA_{name}" for name in ("EVENTS", "IDENTITY", "IMAGE", "RUNTIME", "RUN_FOLDER", "STOP_FILE", "SUPERVISOR")
}
OURS = ("script", "datasets", "general", "launch", "run", "runtime")
MOST = 4 * 2**20  # bytes; limit for any configuration that is read, which may come through a pipe
_DIGITS = 10
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class Unreadable(ConfigError):
    """The file is not a valid TOML document. `problem` has the details as data."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.place}: {problem.message}", hint=problem.hint)
        self.problem = problem


@dataclass(frozen=True)
class Override:
    """One `LORA_*` variable or `--set` item: a dotted key, its text, and its name for messages."""

    key: tuple[str, ...]
    text: str
    where: str


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
    if nesting.has_long_keys(text):
        raise Unreadable(_deep(path, ", or a line has more than a thousand dots"))
    try:
        data = tomls.loads(text)
    except tomls.TOMLDecodeError as exc:
        raise Unreadable(_located(path, text, str(exc))) from None
    except RecursionError:
        raise Unreadable(_deep(path)) from None
    except ValueError:  # an integer of thousands of digits
        raise Unreadable(Problem("not valid TOML: it has a number of more than 64 bits", where=str(path))) from None
    if nesting.too_deep(data):
        raise Unreadable(_deep(path))
    if (odd := nesting.oddity(data)) is not None:
        raise Unreadable(Problem(f"it has {odd}", where=str(path)))
    return Document(data, positions.index(text.replace("\r\n", "\n")))


def _deep(path: Path, more: str = "") -> Problem:
    return Problem(f"arrays or tables are nested more than {nesting.LIMIT} deep{more}", where=str(path))


def text_of(path: Path) -> str:
    """Return the text of a file. Raises Unreadable."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except OSError as exc:
        message = f"cannot be read: {exc.strerror}"
        raise Unreadable(Problem(message, "give the path of a TOML file", where=str(path))) from None
    if len(data) > MOST:
        raise Unreadable(Problem(f"cannot be read: it is larger than {MOST} bytes", where=str(path)))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        column = exc.start - (data.rfind(b"\n", 0, exc.start) + 1) + 1
        hint = "save the file as UTF-8" + (" (it looks like UTF-16)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "")
        raise Unreadable(Problem("not UTF-8", hint, where=str(path), position=Position(line, column))) from None


def _located(path: Path, text: str, message: str) -> Problem:
    found = _PLACE.search(message)
    what = _PLACE.sub("", message)
    what = what[:1].lower() + what[1:]
    if found is None:
        return Problem(f"not valid TOML: {what}", where=str(path))
    lines = text.split("\n")
    place = Position(int(found[1]), int(found[2])) if found[1] else Position(len(lines), len(lines[-1]) + 1)
    return Problem(f"not valid TOML: {what}", where=str(path), position=place)


def from_environment(environ: Mapping[str, str]) -> list[Override]:
    """Return the overrides in the environment, such as `LORA_LEARNING_RATE` and `LORA_RUN__RESUME` (`__` is a dot)."""
    names = sorted(n for n in environ if n.startswith(PREFIX) and n not in RESERVED)
    return [Override(_key(n.removeprefix(PREFIX).lower().split("__")), environ[n], n) for n in names]


def from_sets(sets: Iterable[str]) -> list[Override]:
    """Return the overrides of `--set key=value` items. Raises ConfigError for an item without a key or `=`."""
    return [_from_set(item) for item in sets]


def _from_set(item: str) -> Override:
    key, equals, text = item.partition("=")
    parts = _key(key.strip().lstrip("-").split("."))
    if not equals or not all(parts):
        raise ConfigError(f"--set {item}: not of the form key=value", hint="for example --set learning_rate=1e-4")
    return Override(parts, text, f"--set {key.strip()}")


def _key(parts: Iterable[str]) -> tuple[str, ...]:
    """Normalize `-` and `_` in a key: upstream's flags have `_`, runtime patches have `-`."""
    first, *rest = (part.strip().replace("-", "_") for part in parts)
    if first == "runtime" and rest:
        rest[0] = rest[0].replace("_", "-")
    return (first, *rest)


def override(document: Document, overrides: Iterable[Override]) -> Document:
    """Return the document with the overrides applied. Raises ConfigError if one does not fit its structure."""
    overrides = list(overrides)
    if not overrides:
        return document
    result = Document(copy.deepcopy(document.data), document.positions)
    for item in overrides:
        path = _place(result.data, item)
        _put(result.data, path, _value(item.text), item)
        result.origins[path] = item.where
        result.texts[path] = item.text
    return result


def is_value_table(name: str) -> bool:
    """Whether a table of this name is a flag's value (key=value arguments, upstream's `*_args`), not a heading."""
    return name.endswith("_args")


def _value(text: str) -> Any:
    """Parse the text as a TOML value; return the text itself if that fails."""
    try:
        data = tomls.loads(f"value = {text}")
    except (tomls.TOMLDecodeError, RecursionError):
        return text
    return data["value"] if len(data) == 1 else text


def _place(data: dict[str, Any], item: Override) -> KeyPath:
    """Return the path to override: as given in this project's tables; of a flag, where the file sets it, or the top."""
    if item.key[0] in OURS:
        return tuple(int(part) if part.isdecimal() and len(part) < _DIGITS else part for part in item.key)
    start = next((i for i, part in enumerate(item.key) if is_value_table(part)), len(item.key) - 1)
    flag, rest = item.key[start], item.key[start + 1 :]
    homes = (name for name, table in data.items() if name not in OURS and isinstance(table, dict) and flag in table)
    home = None if flag in data else next(homes, None)
    return (*((home,) if home else ()), flag, *rest)


def _put(data: Any, path: KeyPath, value: Any, item: Override) -> None:
    owner = data
    for part in path[:-1]:
        owner = _step(owner, part, item)
    last = path[-1]
    if isinstance(last, str) and isinstance(owner, dict):
        owner[last] = value
        return
    if isinstance(last, str) or not isinstance(owner, list) or last >= len(owner):
        raise _no_place(item)
    owner[last] = value


def _step(owner: Any, part: str | int, item: Override) -> Any:
    if isinstance(owner, list) and isinstance(part, int) and part < len(owner):
        return owner[part]
    if not isinstance(owner, dict) or not isinstance(part, str):
        raise _no_place(item)
    below = owner.setdefault(part, {})
    if is_value_table(part) and isinstance(below, list) and all(isinstance(w, str) and "=" in w for w in below):
        below = owner[part] = dict(word.split("=", 1) for word in below)
    return below


def _no_place(item: Override) -> ConfigError:
    return ConfigError(f"{item.where}: the file has no such place", hint="items of a list are counted from 0")
