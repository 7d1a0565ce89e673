"""One TOML file: load it, check it, turn it into upstream's flags.

config = load(path)                                # needs no upstream
known = schema.read(tree, config.script)           # reads upstream's source, imports none of it
argv = to_argv(config, known, dataset_config=...)  # and dataset_document(config) is that file's text
"""

from __future__ import annotations

from lora_training.config import schema
from lora_training.config.argv import dataset_document, to_argv
from lora_training.config.checks import Machine, check, require
from lora_training.config.load import load
from lora_training.config.model import Config, Entry, Launch, Problem, Run
from lora_training.config.schema import Schema

__all__ = [
    "Config",
    "Entry",
    "Launch",
    "Machine",
    "Problem",
    "Run",
    "Schema",
    "check",
    "dataset_document",
    "load",
    "require",
    "schema",
    "to_argv",
]
