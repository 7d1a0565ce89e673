"""The checkout and the tree of sd-scripts that the `config` commands work with."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from lora_training.config import Config, Problem
    from lora_training.config.schema import Schema
    from lora_training.workspace import Workspace

_UPSTREAM = "sd-scripts"


class Checkout:
    """The workspace, the tree of sd-scripts to check against, and what is known of them."""

    def __init__(self, tree: Path | None) -> None:
        from lora_training import workspace

        self.workspace: Workspace = workspace.find()
        self.tree = tree.absolute() if tree else self.workspace.upstream(_UPSTREAM).path

    def environ(self) -> Mapping[str, str]:
        """Our environment, with LORA_CACHE always in it."""
        return {**os.environ, "LORA_CACHE": str(self.workspace.cache)}

    def load(self, file: Path, sets: tuple[str, ...]) -> Config:
        """A configuration with its overrides."""
        from lora_training.config import load

        return load(file, sets=sets, environ=self.environ())

    def schema(self, script: str) -> Schema:
        """What a script of the tree accepts."""
        from lora_training.config import schema as schemas

        return schemas.read(self.tree, script, cache=self.workspace.cache)

    def check(
        self, file: Path, sets: tuple[str, ...], progress: Callable[[str], None], *, quick: bool
    ) -> tuple[Problem, ...]:
        """The problems of a file, those of its very text and script included; `quick` opens none that it names."""
        from lora_training.config import checks
        from lora_training.launch import gpus

        installed = checks.installed_here()
        return checks.file(
            file,
            self.schema,
            sets=sets,
            environ=self.environ(),
            machine=checks.Machine(
                self.runtime_names(),
                installed,
                self.runtime_problems,
                None if quick else partial(self._file_problems, progress),
                # an environment without torch is none that trains
                has_gpu=None if installed is None else lambda: gpus.has_one(os.environ),
            ),
        )

    def exchanged(self, file: Path, sets: tuple[str, ...]) -> str | None:
        """What a configuration sends, fetches and lets run; None also for one that cannot be read."""
        from lora_training.config import exchanged
        from lora_training.errors import ConfigError

        try:
            config = self.load(file, sets)
            return exchanged.sentence(config, self.schema(config.script))
        except ConfigError:
            return None

    def _file_problems(self, progress: Callable[[str], None], config: Config, schema: Schema) -> Iterable[Problem]:
        """Return the problems of the files that `lora train` would report before it starts."""
        from lora_training.app import start_checks

        return start_checks.problems(self.workspace, config, schema, progress)

    def runtime_problems(self, table: Mapping[str, Any]) -> Mapping[str, Iterable[Any]]:
        """What is wrong with the settings in `[runtime]`."""
        from lora_training.runtime import registry

        return registry.problems(table)

    def runtime_names(self) -> tuple[str, ...]:
        """The names of the runtime patches there are."""
        from lora_training.runtime import registry

        return tuple(registry.available())

    def commit(self) -> str | None:
        """The tree's commit, where it is known."""
        from lora_training.upstream import pins

        if self.tree == self.workspace.upstream(_UPSTREAM).path:
            return pins.head(self.workspace.upstream(_UPSTREAM)).commit
        from lora_training import repositories

        return repositories.head(self.tree)
