"""The checkout and the tree of sd-scripts that the `config` commands work with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lora_training import git_process, workspace
from lora_training.config import checks, show
from lora_training.config import schema as schemas
from lora_training.config.loading import load
from lora_training.config.model import Config
from lora_training.config.schema import Schema
from lora_training.errors import ConfigError
from lora_training.launch import gpus
from lora_training.problems import Problem, Severity
from lora_training.runtime import registry
from lora_training.upstream import pins

_UPSTREAM = "sd-scripts"


@dataclass(frozen=True)
class Report:
    """The problems of a file, and what its training would do besides; that is None if it has errors, too."""

    file: Path
    problems: tuple[Problem, ...]
    side_effects: str | None

    def count(self, severity: Severity) -> int:
        """Return the number of errors or warnings."""
        return sum(problem.severity == severity for problem in self.problems)

    def lines(self) -> Iterator[str]:
        """Yield the report for people."""
        for problem in self.problems:
            yield from problem.lines()
        counted = ((self.count("error"), "error"), (self.count("warning"), "warning"))
        yield f"{self.file}: " + ", ".join(f"{number} {word}{'' if number == 1 else 's'}" for number, word in counted)
        if self.side_effects:
            yield f"{self.file}: {self.side_effects}"

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "file": str(self.file),
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "problems": [problem.as_json() for problem in self.problems],
            "exchanged": self.side_effects,
        }


class Checkout:
    """The workspace and the tree of sd-scripts to check against."""

    def __init__(self, tree: Path | None) -> None:
        self.workspace = workspace.find()
        self.tree = tree.absolute() if tree else self.workspace.upstream(_UPSTREAM).path

    def environ(self) -> Mapping[str, str]:
        """Return the environment variables, always with LORA_CACHE."""
        return {**os.environ, "LORA_CACHE": str(self.workspace.cache)}

    def load(self, file: Path, sets: tuple[str, ...]) -> Config:
        """Load a configuration with its overrides."""
        return load(file, sets=sets, environ=self.environ())

    def schema(self, script: str) -> Schema:
        """Return the flags that a script of the tree accepts."""
        return schemas.read(self.tree, script, cache=self.workspace.cache)

    def check(
        self,
        file: Path,
        sets: tuple[str, ...],
        progress: Callable[[str], None],
        *,
        quick: bool,
        text: str | None = None,
    ) -> tuple[Problem, ...]:
        """Return the problems of a file, those of its text and script included; `quick` opens no file that it names.

        `text` takes the place of the file's.
        """
        installed = checks.installed_here()
        return checks.file(
            file,
            self.schema,
            sets=sets,
            environ=self.environ(),
            text=text,
            machine=checks.Machine(
                tuple(registry.available()),
                installed,
                registry.problems,
                None if quick else partial(self._file_problems, progress),
                # an environment without torch is not used for training, so its GPUs are unknown
                has_gpu=None if installed is None else lambda: gpus.has_one(os.environ),
                loads_xformers=gpus.loads_xformers,
            ),
        )

    def report(self, file: Path, sets: tuple[str, ...], progress: Callable[[str], None], *, quick: bool) -> Report:
        """Check a file; `quick` opens no file that it names."""
        found = self.check(file, sets, progress, quick=quick)
        side_effects = None
        if not any(problem.severity == "error" for problem in found):
            with contextlib.suppress(ConfigError):
                config = self.load(file, sets)
                side_effects = show.side_effects(config, self.schema(config.script))
        return Report(file, found, side_effects)

    def _file_problems(self, progress: Callable[[str], None], config: Config, schema: Schema) -> Iterable[Problem]:
        """Return the problems of the files that `lora train` would report before it starts."""
        from lora_training.app import start_checks

        return start_checks.problems(self.workspace, config, schema, progress)

    def commit(self) -> str | None:
        """Return the tree's commit, None if unknown."""
        if self.tree == self.workspace.upstream(_UPSTREAM).path:
            return pins.head(self.workspace.upstream(_UPSTREAM)).commit
        return git_process.head(self.tree)
