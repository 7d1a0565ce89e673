"""Configurations of `configs/` as the page edits them: by plain file name, and never written over unasked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lora_training.config import presets
from lora_training.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from lora_training.workspace import Workspace

_NAME = re.compile(r"[\w][\w. -]{0,99}")


def folder(here: Workspace) -> Path:
    """Return the folder of the configurations."""
    return here.root / "configs"


def names(here: Workspace) -> tuple[str, ...]:
    """Return the names of the configurations, without `.toml`, sorted."""
    return tuple(name for name in presets.names(folder(here)) if _NAME.fullmatch(name))


def find(here: Workspace, name: str) -> Path:
    """Return the file of a configuration. Raises ConfigError if there is none."""
    if name not in names(here):
        raise ConfigError(f"there is no configuration {name!r} in {folder(here)}")
    return folder(here) / f"{name}.toml"
