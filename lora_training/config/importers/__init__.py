"""Import configurations of other trainers, with a report on every key."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_training.config import document, paths
from lora_training.config.importers import command, flat_toml, kohya_gui, metadata, train_lora_tool
from lora_training.config.importers.draft import Draft, Row
from lora_training.config.importers.source import Source, read
from lora_training.config.schema import Schema

__all__ = ["Draft", "Row", "Source", "convert", "read"]

_KINDS: dict[str, Any] = {
    "kohya_ss": kohya_gui,
    "toml": flat_toml,
    "metadata": metadata,
    "train_LoRA_tool": train_lora_tool,
}


def convert(source: Source, schema: Callable[[str], Schema], *, script: str | None = None) -> Draft:
    """Convert a source to a configuration for `script`, or for the script that the source names.

    `schema` returns the schema of a script. If neither names a script, the most likely one is used, and the report says
    so. Raises ConfigError if the source cannot be parsed.
    """
    if source.kind == "command":
        found = command.training(source.content)
        draft = Draft(command.KIND, schema(script or found[0]))
        command.convert(found, draft)
    else:
        module = _KINDS[source.kind]
        named = script or module.script(source.content)
        draft = Draft(module.KIND, schema(named or module.guess(source.content)))
        if named is None:
            draft.left_out("(script)", f"the file does not say: {draft.schema.script}; --script names another")
        module.convert(source.content, draft)
    _datasets(draft, source)
    draft.done()
    return draft


def _datasets(draft: Draft, source: Source) -> None:
    """Move the content of a readable `dataset_config` file into the configuration itself."""
    named = draft.values.get("dataset_config")
    if named is None or draft.datasets:
        return
    try:
        data = document.read(Path(paths.absolute(str(named), source.folder.absolute(), os.environ))).data
    except (paths.UnknownVariable, document.Unreadable):
        return  # keep the flag; the check reports the problem with the file
    datasets = data.get("datasets")
    if isinstance(datasets, list):
        draft.datasets = [item for item in datasets if isinstance(item, dict)]
        draft.general |= data.get("general", {}) if isinstance(data.get("general"), dict) else {}
        del draft.values["dataset_config"]
