"""The values that upstream will use: of each flag after defaults, of each option of a dataset after fallbacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lora_training import families
from lora_training.config import paths
from lora_training.config.model import Config
from lora_training.config.positions import Path as KeyPath
from lora_training.config.schema import Schema
from lora_training.config.schema.model import STYLE_KEYS
from lora_training.problems import Problem, Severity


@dataclass(frozen=True)
class View:
    """A configuration together with its schema. Values that upstream's parser would refuse count as not given.

    `refused` has the problem with each of these.
    """

    config: Config
    schema: Schema
    refused: Mapping[str, Problem] = field(default_factory=dict)

    @property
    def tree(self) -> Path | None:
        """The tree of upstream that the schema was read from."""
        return self.schema.tree

    @property
    def family(self) -> families.Family:
        """The record of the script."""
        return families.of(self.schema.script)

    def given(self, key: str) -> bool:
        """Whether the configuration sets the flag to a valid value."""
        return key in self.config.entries and key not in self.refused

    def value(self, key: str) -> Any:
        """Return a flag's value: the configuration's, else upstream's default; None if there is no such flag."""
        flag = self.schema.keys.get(key)
        if self.given(key):
            entry = self.config.entries[key]
            return entry.given(flag) if flag else entry.value
        return flag.default if flag else None

    def resolved(self, key: str) -> Path | None:
        """Return the path that a flag names; None without one, or if it names an unknown variable."""
        value = self.value(key)
        return self.absolute(value) if isinstance(value, str) and value else None

    def absolute(self, value: str) -> Path | None:
        """Return an absolute path; None if it names an unknown variable, which is reported with the flag's value."""
        try:
            return Path(self.config.absolute(value))
        except paths.UnknownVariable:
            return None

    def number(self, key: str) -> float | None:
        """Return a flag's value if it is a number, else None."""
        return as_number(self.value(key))

    def on(self, key: str) -> bool:
        """Whether a flag's value is true: not zero, empty or None."""
        return bool(self.value(key))

    def pairs(self, key: str) -> Iterator[tuple[str | int, str, Any]]:
        """Yield a flag's key=value arguments, from a list or a table: the path below the flag, the name, the value."""
        given = self.value(key)
        if isinstance(given, dict):
            yield from ((name, name, item) for name, item in given.items())
        elif isinstance(given, list):
            words = ((number, word.partition("=")) for number, word in enumerate(given) if isinstance(word, str))
            yield from ((number, name, item) for number, (name, equals, item) in words if equals)

    def path(self, key: str) -> KeyPath:
        """Return the path at which the configuration sets a flag; the empty path if it does not."""
        entry = self.config.entries.get(key)
        return entry.path if entry else ()

    def problem(self, message: str, key: str, *, hint: str | None = None, severity: Severity = "error") -> Problem:
        """Return a problem at the position of a flag."""
        return self.config.problem(message, self.path(key), hint=hint, severity=severity)

    @cached_property
    def datasets(self) -> tuple[Scope, ...]:
        """Return every dataset."""
        outer = (self.config.general, ("general",))
        return tuple(
            Scope(self, ((table, ("datasets", number)), outer)) for number, table in enumerate(self.config.datasets)
        )

    @cached_property
    def subsets(self) -> tuple[Scope, ...]:
        """Return every subset of every dataset."""
        lists = ((dataset, dataset.table.get("subsets")) for dataset in self.datasets)
        return tuple(
            Scope(self, ((table, (*dataset.path, "subsets", number)), *dataset.tables))
            for dataset, tables in lists
            for number, table in enumerate(tables if isinstance(tables, list) else [])
            if isinstance(table, dict)
        )


@dataclass(frozen=True)
class Scope:
    """A dataset or a subset of one: the tables that its options are read from, its own first, each with its path."""

    view: View
    tables: tuple[tuple[Mapping[str, Any], KeyPath], ...]

    @property
    def table(self) -> Mapping[str, Any]:
        """The table of the dataset or subset itself."""
        return self.tables[0][0]

    @property
    def path(self) -> KeyPath:
        """The path of this table in the document: `("datasets", 0, "subsets", 1)`."""
        return self.tables[0][1]

    @property
    def style(self) -> str:
        """The style of a subset: `controlnet`, `finetuning` or `dreambooth`, by its keys, as in upstream."""
        return next((style for style, key in STYLE_KEYS.items() if key in self.table), "dreambooth")

    def value(self, key: str) -> Any:
        """Return the value that upstream will use for an option: the first table's that sets it, or the flag's."""
        given = (table[key] for table, _ in self.tables if table.get(key) is not None)
        found = next(given, None)
        return self.view.value(families.OPTION_FLAGS.get(key, key)) if found is None else found

    def place(self, key: str) -> KeyPath:
        """Return the path at which an option is set; the scope's own path if it has its default."""
        places = ((*path, key) for table, path in self.tables if key in table)
        return next(places, ()) or self.view.path(families.OPTION_FLAGS.get(key, key)) or self.path

    def problem(self, message: str, key: str, *, hint: str | None = None, severity: Severity = "error") -> Problem:
        """Return a problem at the place of an option."""
        return self.view.config.problem(message, self.place(key), hint=hint, severity=severity)


def is_whole(value: Any) -> bool:
    """Whether `value` is an integer and not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def as_number(value: Any) -> float | None:
    """Return `value` if it is a number and not a boolean, else None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
