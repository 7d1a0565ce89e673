"""Build a Config from a file, the `LORA_*` variables and `--set`. Needs no upstream."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_training import files, nearest, tomls
from lora_training.config import document, tables
from lora_training.config.document import Document
from lora_training.config.model import Config, Entry
from lora_training.config.positions import Path as KeyPath
from lora_training.errors import ConfigError
from lora_training.problems import Position, Problem
from lora_training.workspace import CACHE_VARIABLE, HOME_VARIABLE, RUNS_VARIABLE

# the keys that are not upstream's flags
TABLES = ("script", "datasets", "general", "launch", "run", "runtime")
_PREFIX = "LORA_"
# These are not overrides: three name folders, IMAGE marks the container image, and the supervisor passes the others to
# the training process.
_RESERVED = frozenset({HOME_VARIABLE, CACHE_VARIABLE, RUNS_VARIABLE}) | {
    f"LORA_{name}" for name in ("EVENTS", "IDENTITY", "IMAGE", "RUNTIME", "RUN_FOLDER", "STOP_FILE", "SUPERVISOR")
}
_DIGITS = 10


def load(
    path: Path, *, sets: Sequence[str] = (), environ: Mapping[str, str] | None = None, text: str | None = None
) -> Config:
    """Read a configuration file, then apply the `LORA_*` variables of `environ`, then the `--set` items.

    `text` takes the place of the file's; `environ` (by default the process's own) also supplies `${NAME}` in paths.
    Raises Unreadable (a ConfigError) if the file is not valid TOML, and ConfigError if an override does not fit; all
    other problems are in `Config.problems`.
    """
    variables = dict(os.environ if environ is None else environ)
    path = files.absolute(path)
    doc = document.read(path, text)
    doc = override(doc, [*from_environment(variables), *from_sets(sets)])
    return _Builder(path, doc, variables).config()


# -- overrides


@dataclass(frozen=True)
class Override:
    """One `LORA_*` variable or `--set` item: a dotted key, its text, and its name for messages."""

    key: tuple[str, ...]
    text: str
    where: str


def from_environment(environ: Mapping[str, str]) -> list[Override]:
    """Return the overrides in the environment, such as `LORA_LEARNING_RATE` and `LORA_RUN__RESUME` (`__` is a dot)."""
    names = sorted(n for n in environ if n.startswith(_PREFIX) and n not in _RESERVED)
    return [Override(_key(n.removeprefix(_PREFIX).lower().split("__")), environ[n], n) for n in names]


def from_sets(sets: Iterable[str]) -> Iterator[Override]:
    """Yield the overrides of `--set key=value` items. Raises ConfigError for an item without a key or `=`."""
    for item in sets:
        key, equals, text = item.partition("=")
        parts = _key(key.strip().lstrip("-").split("."))
        if not equals or not all(parts):
            raise ConfigError(f"--set {item}: not of the form key=value", hint="for example --set learning_rate=1e-4")
        yield Override(parts, text, f"--set {key.strip()}")


def _key(parts: Iterable[str]) -> tuple[str, ...]:
    """Normalize `-` and `_` in a key: upstream's flags have `_`, runtime patches have `-`."""
    first, *rest = (part.strip().replace("-", "_") for part in parts)
    if first == "runtime" and rest:
        rest[0] = rest[0].replace("_", "-")
    return (first, *rest)


def override(doc: Document, overrides: Iterable[Override]) -> Document:
    """Return the document with the overrides applied. Raises ConfigError if one does not fit its structure."""
    overrides = list(overrides)
    if not overrides:
        return doc
    result = Document(copy.deepcopy(doc.data), doc.positions)
    for item in overrides:
        path, value = _place(result.data, item.key), parsed(item.text)
        try:
            _put(result.data, path, item.text if value is None else value)
        except LookupError:
            hint = "count the items of a list from 0"
            raise ConfigError(f"{item.where}: the file has no such place", hint=hint) from None
        result.origins[path] = item.where
        result.texts[path] = item.text
    return result


def parsed(text: str) -> Any:
    """Return the value of a text as TOML, None if it is none."""
    try:
        data = tomls.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return None
    return data["value"] if len(data) == 1 else None


def is_value_table(name: str) -> bool:
    """Whether a table of this name is a flag's value (key=value arguments, upstream's `*_args`), not a heading."""
    return name.endswith("_args")


def flags(data: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the path of each of upstream's flags in a document."""
    for name, value in data.items():
        if name in TABLES and (name != "general" or _has_general(data)):
            continue
        if isinstance(value, dict) and not is_value_table(name):
            yield from ((name, key) for key in value)
        else:
            yield (name,)


def _has_general(data: Mapping[str, Any]) -> bool:
    """Whether `[general]` belongs to the dataset configuration; without datasets it is a heading for flags."""
    return "datasets" in data and isinstance(data.get("general"), dict)


def _place(data: dict[str, Any], key: tuple[str, ...]) -> KeyPath:
    """Return the path to override: as given in this project's tables; of a flag, where the file sets it, or the top."""
    if key[0] in TABLES:
        return numbered(key)
    start = next((i for i, part in enumerate(key) if is_value_table(part)), len(key) - 1)
    flag, rest = key[start], key[start + 1 :]
    homes = (name for name, table in data.items() if name not in TABLES and isinstance(table, dict) and flag in table)
    home = None if flag in data else next(homes, None)
    return (*((home,) if home else ()), flag, *rest)


def numbered(parts: Iterable[str]) -> KeyPath:
    """Return the parts of a key as a path, in which a number is a place in a list."""
    return tuple(int(part) if part.isdecimal() and len(part) < _DIGITS else part for part in parts)


def _put(data: Any, path: KeyPath, value: Any) -> None:
    """Set the value at a path. Raises LookupError if the document has no such place."""
    *parents, last = path
    owner = data
    for part in parents:
        owner = _step(owner, part)
    match owner, last:
        case (dict(), str()):
            owner[last] = value
        case (list(), int()) if last < len(owner):
            owner[last] = value
        case _:
            raise LookupError(last)


def _step(owner: Any, part: str | int) -> Any:
    match owner, part:
        case (list(), int()) if part < len(owner):
            return owner[part]
        case (dict(), str()):
            below = owner.setdefault(part, {})
        case _:
            raise LookupError(part)
    if is_value_table(part) and isinstance(below, list) and all(isinstance(w, str) and "=" in w for w in below):
        below = owner[part] = dict(word.split("=", 1) for word in below)
    return below


# -- the Config


class _Builder:
    """Collects the parts of a Config and the problems found on the way."""

    def __init__(self, path: Path, doc: Document, variables: dict[str, str]) -> None:
        self.doc = doc
        self.variables = variables
        # a partial Config with the positions, for problems found before all parts are known
        self.bare = Config(path, "", {}, variables=variables, positions=doc.positions, origins=doc.origins)
        self.problems: list[Problem] = []
        self.entries: dict[str, Entry] = {}
        self.secrets: dict[str, str] = {}

    def config(self) -> Config:
        data = self.doc.data
        self._flags()
        return replace(
            self.bare,
            script=self._script(),
            entries=self.entries,
            datasets=tuple(self._datasets()),
            general=data["general"] if _has_general(data) else {},
            launch=tables.launch(data.get("launch", {}), self.report),
            run=tables.run(data.get("run", {}), self.bare.folder, self.variables, self.report),
            runtime=tables.runtime(data.get("runtime", {}), self.report),
            secrets=self.secrets,
            problems=tuple(self.problems),
        )

    def report(self, message: str, path: KeyPath, *, hint: str | None = None) -> None:
        self.problems.append(self.bare.problem(message, path, hint=hint))

    def _script(self) -> str:
        script = self.doc.data.get("script")
        if isinstance(script, str) and script:
            return script.removesuffix(".py")
        message = "`script` is missing" if script is None else "`script` must be the name of one of upstream's scripts"
        self.report(message, ("script",), hint='for example: script = "sdxl_train_network"')
        return ""

    def _datasets(self) -> Iterator[dict[str, Any]]:
        raw = self.doc.data.get("datasets", [])
        hint = "write each dataset under its own [[datasets]]"
        if not isinstance(raw, list):
            self.report("`datasets` must be an array of tables", ("datasets",), hint=hint)
            return
        for number, dataset in enumerate(raw):
            if isinstance(dataset, dict):
                yield dataset
            else:
                self.report("a dataset must be a table", ("datasets", number), hint=hint)

    def _flags(self) -> None:
        for path in flags(self.doc.data):
            self._add(path[-1], document.value_at(self.doc.data, path), path)
        # upstream would give accelerate the default of the flag instead
        launch = self.doc.data.get("launch")
        precision = launch.get("mixed_precision") if isinstance(launch, dict) else None
        if isinstance(precision, str) and "mixed_precision" not in self.entries:
            self._add("mixed_precision", precision, ("launch", "mixed_precision"))
        # the file's order; overrides of keys that the file does not have come last
        last = Position(sys.maxsize, 0)
        order = {key: self.doc.positions.get(entry.path, last) for key, entry in self.entries.items()}
        self.entries = {key: self.entries[key] for key in sorted(order, key=order.__getitem__)}

    def _add(self, name: str, value: Any, path: KeyPath) -> None:
        key = name.replace("-", "_")
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            # often a misspelt `[[datasets]]`
            hint = nearest.hint(name, ["datasets"]) or f"write [{name}]: only `datasets` is an array of tables"
            self.report(f"`[[{name}]]` is not known", path, hint=hint)
        elif key in tables.SECRETS and isinstance(text := self.doc.texts.get(path, value), str):
            self.secrets[tables.SECRETS[key]] = text
        elif first := self.entries.get(key):
            where = f"line {first.position.line}" if first.position else first.where
            self.report(f"`{key}` is given twice", path, hint=f"it is already set in {where}; keep one of them")
        else:
            origins = (self.doc.origins.get(path[:length]) for length in range(len(path), 0, -1))
            origin = next(filter(None, origins), None)
            place = None if origin else self.doc.positions.get(path)
            self.entries[key] = Entry(key, value, origin or str(self.bare.path), path, place, self.doc.texts.get(path))
