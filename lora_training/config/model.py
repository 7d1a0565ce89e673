"""A configuration as data: the values from the file, the environment and `--set`, and the origin of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lora_training.config import paths
from lora_training.config.positions import Path as KeyPath
from lora_training.config.schema import Flag
from lora_training.config.tables import LaunchTable, RunTable
from lora_training.problems import Position, Problem, Severity


@dataclass(frozen=True)
class Entry:
    """A value for one of upstream's flags.

    `where` names its origin (the file, `LORA_NAME` or `--set`); `path` is its position in the document; `text` is the
    original text of an override, before it was parsed as TOML.
    """

    key: str
    value: Any
    where: str
    path: KeyPath = ()
    position: Position | None = None
    text: str | None = None

    def given(self, flag: Flag) -> Any:
        """Return the value for a flag: for one that takes text, an override's own text."""
        return self.text if self.text is not None and flag.takes_text else self.value

    @property
    def origin(self) -> str:
        """Return `file:line:column`, `LORA_NAME` or `--set key`."""
        return f"{self.where}:{self.position.line}:{self.position.column}" if self.position else self.where


@dataclass(frozen=True)
class Config:
    """One configuration file with all overrides applied, not yet checked against upstream.

    `entries` has upstream's flags by key, in the file's order. `datasets` and `general` are as written in the file and
    go to upstream's dataset configuration. `variables` supplies `${NAME}` in paths. `secrets` maps environment
    variables to keys and tokens; they are not in `entries`, so that they are neither printed nor recorded. `problems`
    has the problems that can be found without upstream.
    """

    path: Path
    script: str
    entries: Mapping[str, Entry]
    datasets: tuple[dict[str, Any], ...] = ()
    general: Mapping[str, Any] = field(default_factory=dict)
    launch: LaunchTable = field(default_factory=LaunchTable)
    run: RunTable = field(default_factory=RunTable)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    positions: Mapping[KeyPath, Position] = field(default_factory=dict)
    origins: Mapping[KeyPath, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def values(self) -> Mapping[str, Any]:
        """The value of each flag as written, by key, in order."""
        return MappingProxyType({key: entry.value for key, entry in self.entries.items()})

    @property
    def folder(self) -> Path:
        """The folder that relative paths are relative to."""
        return self.path.parent

    def absolute(self, value: str) -> str:
        """Return a path of this configuration as an absolute path. Raises UnknownVariable."""
        return paths.absolute(value, self.folder, self.variables)

    def resolve(self, flag: Flag, value: str) -> str:
        """Return a path as upstream gets it: absolute, or a hub id unchanged. Raises UnknownVariable."""
        return paths.resolve(flag, value, self.folder, self.variables)

    def problem(self, message: str, path: KeyPath, *, hint: str | None = None, severity: Severity = "error") -> Problem:
        """Return a problem located at a path of the document, its nearest enclosing position, or its override."""
        key = ".".join(map(str, path)) or None
        for place in (path[:length] for length in range(len(path), -1, -1)):
            if place in self.origins:
                return Problem(message, hint, severity, key, self.origins[place])
            if place in self.positions:
                return Problem(message, hint, severity, key, str(self.path), self.positions[place])
        return Problem(message, hint, severity, key, str(self.path))
