"""The values that upstream will use: of each option after defaults, of each subset option after fallbacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
class Subset:
    """A subset of a dataset with its path in the document: `("datasets", 0, "subsets", 1)`."""

    table: dict[str, Any]
    dataset: dict[str, Any]
    path: KeyPath

    @property
    def style(self) -> str:
        """Return `controlnet`, `finetuning` or `dreambooth`, by the keys of the subset, as upstream does."""
        return next((style for style, key in STYLE_KEYS.items() if key in self.table), "dreambooth")


@dataclass(frozen=True)
class View:
    """A configuration together with its schema. Values of the wrong type count as not given."""

    config: Config
    schema: Schema
    refused: frozenset[str] = frozenset()

    @property
    def tree(self) -> Path | None:
        """The tree of upstream that the schema was read from."""
        return self.schema.tree

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
    def subsets(self) -> tuple[Subset, ...]:
        """Return every subset of every dataset."""
        lists = ((number, each, each.get("subsets")) for number, each in enumerate(self.config.datasets))
        return tuple(
            Subset(table, dataset, ("datasets", number, "subsets", inner))
            for number, dataset, tables in lists
            for inner, table in enumerate(tables if isinstance(tables, list) else [])
            if isinstance(table, dict)
        )

    def inherited(self, key: str, *tables: dict[str, Any]) -> Any:
        """Return a dataset option from the first of `tables`, `[general]` and the flag of that name that sets it."""
        for table in (*tables, dict(self.config.general)):
            if table.get(key) is not None:
                return table[key]
        return self.value(families.OPTION_FLAGS.get(key, key))

    def of_subset(self, subset: Subset, key: str) -> Any:
        """Return the value that upstream will use for an option of a subset."""
        return self.inherited(key, subset.table, subset.dataset)

    def where(self, key: str, *tables: tuple[dict[str, Any], KeyPath]) -> KeyPath:
        """Return the path at which a dataset option is set; that of the first of `tables` if it is a default."""
        for table, path in (*tables, (dict(self.config.general), ("general",))):
            if key in table:
                return (*path, key)
        return self.path(families.OPTION_FLAGS.get(key, key)) or tables[0][1]

    def where_subset(self, subset: Subset, key: str) -> KeyPath:
        """Return the path at which an option of a subset is set; the subset's own path if it is a default."""
        return self.where(key, (subset.table, subset.path), (subset.dataset, subset.path[:2]))


def is_whole(value: Any) -> bool:
    """Whether `value` is an integer and not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def as_number(value: Any) -> float | None:
    """Return `value` if it is a number and not a boolean, else None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
