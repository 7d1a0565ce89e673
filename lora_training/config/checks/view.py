"""What upstream will see: each option's value after defaults, and each subset's after its fallbacks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lora_training.config.schema.shapes import STYLE_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.model import Config, Problem, Severity
    from lora_training.config.positions import Path as KeyPath
    from lora_training.config.schema import Schema

# the dataset configuration has other names for two of the flags that it falls back to
_FLAG_NAMES = {"batch_size": "train_batch_size", "num_repeats": "dataset_repeats"}


@dataclass(frozen=True)
class Subset:
    """A subset of a dataset with its place in the document: `("datasets", 0, "subsets", 1)`."""

    table: dict[str, Any]
    dataset: dict[str, Any]
    path: KeyPath

    @property
    def style(self) -> str:
        """`controlnet`, `finetuning` or `dreambooth`, by the keys that it has, as upstream tells them apart."""
        return next((style for style, key in STYLE_KEYS.items() if key in self.table), "dreambooth")


@dataclass(frozen=True)
class View:
    """A configuration against a schema. Values of the wrong type are seen as not given."""

    config: Config
    schema: Schema
    refused: frozenset[str] = frozenset()

    def given(self, key: str) -> bool:
        """Whether the configuration sets a flag of that key, to a value that the flag takes."""
        return key in self.config.entries and key not in self.refused

    def value(self, key: str) -> Any:
        """What upstream will have for a flag: the configuration's value, else the default; None without the flag."""
        flag = self.schema.keys.get(key)
        if self.given(key):
            entry = self.config.entries[key]
            return entry.text if entry.text is not None and flag and flag.takes_text else entry.value
        return flag.default if flag else None

    def number(self, key: str) -> float | None:
        """A flag's value when it is a number."""
        return as_number(self.value(key))

    def on(self, key: str) -> bool:
        """Whether a switch is on, or a value neither zero, empty nor absent."""
        return bool(self.value(key))

    def pairs(self, key: str) -> Iterator[tuple[str | int, str, Any]]:
        """A flag's key=value words, or the table of them: the place of each below the flag, its name, its value."""
        given = self.value(key)
        if isinstance(given, dict):
            yield from ((name, name, item) for name, item in given.items())
        elif isinstance(given, list):
            words = ((number, word.partition("=")) for number, word in enumerate(given) if isinstance(word, str))
            yield from ((number, name, item) for number, (name, equals, item) in words if equals)

    def path(self, key: str) -> KeyPath:
        """Where the configuration sets a flag; the top of the document when it does not."""
        entry = self.config.entries.get(key)
        return entry.path if entry else ()

    def problem(self, message: str, key: str, *, hint: str | None = None, severity: Severity = "error") -> Problem:
        """A problem at the place of a flag."""
        return self.config.problem(message, self.path(key), hint=hint, severity=severity)

    @cached_property
    def subsets(self) -> tuple[Subset, ...]:
        """Every subset of every dataset."""
        return tuple(self._subsets())

    def _subsets(self) -> Iterator[Subset]:
        for number, dataset in enumerate(self.config.datasets):
            below = dataset.get("subsets", [])
            for inner, table in enumerate(below if isinstance(below, list) else []):
                if isinstance(table, dict):
                    yield Subset(table, dataset, ("datasets", number, "subsets", inner))

    def inherited(self, key: str, *tables: dict[str, Any]) -> Any:
        """A dataset option: the first of `tables`, `[general]` and the flag of that name that has it."""
        for table in (*tables, dict(self.config.general)):
            if table.get(key) is not None:
                return table[key]
        return self.value(_FLAG_NAMES.get(key, key))

    def of_subset(self, subset: Subset, key: str) -> Any:
        """What upstream will have for an option of a subset."""
        return self.inherited(key, subset.table, subset.dataset)

    def of_subset_text(self, subset: Subset, key: str) -> str:
        """The same when it is a text, else an empty one."""
        value = self.of_subset(subset, key)
        return value if isinstance(value, str) else ""

    def where_subset(self, subset: Subset, key: str) -> KeyPath:
        """Where an option of a subset is set; the subset itself when it is a default."""
        if key in subset.table:
            return (*subset.path, key)
        if key in subset.dataset:
            return (*subset.path[:2], key)
        if key in self.config.general:
            return ("general", key)
        return self.path(_FLAG_NAMES.get(key, key)) or subset.path


def as_number(value: Any) -> float | None:
    """`value` when it is a number, and no switch."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
