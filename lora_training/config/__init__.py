"""Load a TOML configuration, check it, and turn it into upstream's flags.

    config = load(path)                                # needs no upstream
    known = schema.read(tree, config.script)           # asks upstream's own parser, in a child process
    require(config, check(config, known))              # raises ConfigError with all problems
    argv = to_argv(config, known, dataset_config=...)  # dataset_document(config) is the content of that file

The names are imported on first use: importing all of them takes as long as reading a cached schema.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_training.config import schema
    from lora_training.config.argv import dataset_document, dataset_text, to_argv
    from lora_training.config.checks import Machine, check, require
    from lora_training.config.loading import load
    from lora_training.config.model import Config, Entry
    from lora_training.config.schema import Schema
    from lora_training.config.tables import LaunchTable, RunTable

__all__ = [
    "Config",
    "Entry",
    "LaunchTable",
    "Machine",
    "RunTable",
    "Schema",
    "check",
    "dataset_document",
    "dataset_text",
    "load",
    "require",
    "schema",
    "to_argv",
]

_HOMES = {
    "argv": ("dataset_document", "dataset_text", "to_argv"),
    "checks": ("Machine", "check", "require"),
    "loading": ("load",),
    "model": ("Config", "Entry"),
    "schema": ("Schema",),
    "tables": ("LaunchTable", "RunTable"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
